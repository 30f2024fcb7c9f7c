package testnet

import (
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// serveHTTP starts the description and the services; the result stops them.
func (r *Router) serveHTTP(t testing.TB, wg *sync.WaitGroup) func() {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.HTTP = l.Addr().(*net.TCPAddr).AddrPort()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rootDesc.xml", r.describe)
	mux.HandleFunc("POST /ctl/{service}", r.act)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch m := r.Mode(); {
		case m.Hang:
			select {
			case <-r.done:
			case <-q.Context().Done():
			}
		case m.Redirect != "":
			http.Redirect(w, q, m.Redirect, http.StatusTemporaryRedirect)
		case m.Garbage != nil:
			_, _ = w.Write(m.Garbage)
		case !m.UPnP:
			http.NotFound(w, q)
		default:
			mux.ServeHTTP(w, q)
		}
	})}
	if l6, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		r.HTTP6 = l6.Addr().(*net.TCPAddr).AddrPort()
		wg.Go(func() { _ = s.Serve(l6) })
	}
	wg.Go(func() { _ = s.Serve(l) })
	return func() { _ = s.Close() }
}

func (r *Router) describe(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked["description"]++
	v := "1"
	if r.mode.IGD2 {
		v = "2"
	}
	control := func(service string) string {
		if r.mode.Control != "" {
			return r.mode.Control
		}
		return "/ctl/" + service
	}
	firewall := ""
	if r.mode.Pinholes {
		firewall = `<service><serviceType>urn:schemas-upnp-org:service:WANIPv6FirewallControl:1</serviceType><serviceId>urn:upnp-org:serviceId:WANIPv6Firewall1</serviceId><controlURL>` + control("firewall") + `</controlURL></service>`
	}
	w.Header().Set("Content-Type", `text/xml; charset="utf-8"`)
	fmt.Fprintf(w, `<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>1</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:%[1]s</deviceType><friendlyName>the router</friendlyName><manufacturer>testnet</manufacturer><modelName>Fake 3000</modelName>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/ctl/l3</controlURL></service></serviceList>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:%[1]s</deviceType>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:%[1]s</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:%[1]s</serviceType><serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>%[2]s</controlURL></service>%[3]s</serviceList>
</device></deviceList></device></deviceList></device></root>`, v, control("wan"), firewall)
}

// soapCall is an action and its arguments.
type soapCall struct {
	XMLName xml.Name `xml:"Envelope"`
	Body    struct {
		Action struct {
			XMLName xml.Name
			Args    []struct {
				XMLName xml.Name
				Text    string `xml:",chardata"`
			} `xml:",any"`
		} `xml:",any"`
	} `xml:"Body"`
}

func (r *Router) act(w http.ResponseWriter, q *http.Request) {
	var call soapCall
	if err := xml.NewDecoder(io.LimitReader(q.Body, 1<<20)).Decode(&call); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	action := call.Body.Action.XMLName
	args := make(map[string]string)
	for _, a := range call.Body.Action.Args {
		args[a.XMLName.Local] = strings.TrimSpace(a.Text)
	}
	host, _, _ := net.SplitHostPort(q.RemoteAddr)
	from, _ := netip.ParseAddr(host)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[action.Local]++
	var out map[string]string
	var code int
	if q.PathValue("service") == "firewall" {
		out, code = r.firewallLocked(action.Local, args, from)
	} else {
		out, code = r.wanLocked(action.Local, args, from)
	}
	w.Header().Set("Content-Type", `text/xml; charset="utf-8"`)
	if code != 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode><errorDescription>fake error %d</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code, code)
		return
	}
	fmt.Fprintf(w, `<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:%sResponse xmlns:u="%s">`, action.Local, action.Space)
	for k, v := range out {
		fmt.Fprintf(w, "<%s>", k)
		_ = xml.EscapeText(w, []byte(v))
		fmt.Fprintf(w, "</%s>", k)
	}
	fmt.Fprintf(w, `</u:%sResponse></s:Body></s:Envelope>`, action.Local)
}

func portNumber(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return uint16(n)
}

func seconds(s string) time.Duration {
	n, _ := strconv.ParseUint(s, 10, 32)
	return time.Duration(n) * time.Second
}

// wanLocked is WANIPConnection.
func (r *Router) wanLocked(action string, args map[string]string, from netip.Addr) (out map[string]string, code int) {
	proto, external := strings.ToLower(args["NewProtocol"]), portNumber(args["NewExternalPort"])
	at := r.findLocked(proto, external, r.Addr)
	switch action {
	case "GetExternalIPAddress":
		text := ""
		if a := r.toldLocked(); a.IsValid() {
			text = a.String()
		}
		return map[string]string{"NewExternalIPAddress": text}, 0
	case "GetSpecificPortMappingEntry":
		if at < 0 {
			return nil, 714
		}
		m := r.table[at]
		left := time.Duration(0)
		if !m.expires.IsZero() {
			left = m.expires.Sub(r.nowLocked()).Round(time.Second)
		}
		return map[string]string{
			"NewInternalPort": strconv.Itoa(int(m.Internal)), "NewInternalClient": m.Client.String(), "NewEnabled": "1",
			"NewPortMappingDescription": m.Description, "NewLeaseDuration": strconv.Itoa(int(left / time.Second)),
		}, 0
	case "AddPortMapping":
		client, err := netip.ParseAddr(args["NewInternalClient"])
		lease := seconds(args["NewLeaseDuration"])
		switch {
		case err != nil:
			return nil, 402
		case r.mode.Refuse, client != from:
			return nil, 606
		case r.mode.PermanentOnly && lease != 0:
			return nil, 725
		case at >= 0 && r.table[at].Client != client && r.mode.IGD2:
			return nil, 718
		}
		if r.mode.Pretend {
			return nil, 0
		}
		r.putLocked(at, RouterMapping{Proto: proto, External: external, Client: client, Internal: portNumber(args["NewInternalPort"]), Description: args["NewPortMappingDescription"]}, lease)
		return nil, 0
	case "DeletePortMapping":
		if at < 0 {
			return nil, 714
		}
		r.table = append(r.table[:at:at], r.table[at+1:]...)
		return nil, 0
	}
	return nil, 401
}

// firewallLocked is WANIPv6FirewallControl.
func (r *Router) firewallLocked(action string, args map[string]string, from netip.Addr) (out map[string]string, code int) {
	id := portNumber(args["UniqueID"])
	at := -1
	r.expireLocked()
	for i, m := range r.table {
		if m.Pinhole != 0 && m.Pinhole == id {
			at = i
		}
	}
	switch action {
	case "GetFirewallStatus":
		return map[string]string{"FirewallEnabled": "1", "InboundPinholeAllowed": "1"}, 0
	case "AddPinhole":
		client, err := netip.ParseAddr(args["InternalClient"])
		switch {
		case err != nil || !client.Is6():
			return nil, 402
		case r.mode.Refuse, client != from: // section 2.3.3 of the service
			return nil, 606
		}
		r.nextID++
		port := portNumber(args["InternalPort"])
		r.putLocked(-1, RouterMapping{Proto: protoName(byte(portNumber(args["Protocol"]))), External: port, Client: client, Internal: port, Description: "pinhole", Pinhole: r.nextID}, seconds(args["LeaseTime"]))
		return map[string]string{"UniqueID": strconv.Itoa(int(r.nextID))}, 0
	case "UpdatePinhole":
		if at < 0 {
			return nil, 704
		}
		r.putLocked(at, r.table[at], seconds(args["NewLeaseTime"]))
		return nil, 0
	case "DeletePinhole":
		if at < 0 {
			return nil, 704
		}
		r.table = append(r.table[:at:at], r.table[at+1:]...)
		return nil, 0
	}
	return nil, 401
}
