package app

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"postern/internal/admin"
	"postern/internal/notify"
	"postern/internal/testnet"
	"postern/internal/tlsmgr"
)

// told waits until a message with the text is there.
func told(t *testing.T, d *testnet.Discord, text string) testnet.DiscordMessage {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		for _, m := range d.Messages() {
			if strings.Contains(m.Raw, text) {
				return m
			}
		}
		select {
		case <-d.News():
		case <-deadline:
			t.Fatalf("no message with %q came; there are %d", text, len(d.Messages()))
		}
	}
}

const notifySite = `
listen: {http: "127.0.0.1:0", https: ""}
admin: {listen: ""}
data: %s
grace: 1s
notify: {discord: "%s"}
sites:
  - hosts: [a.example.org]
    routes: [{respond: {body: ok}}]
`

func fmtSite(t *testing.T, d *testnet.Discord) string {
	return fmt.Sprintf(notifySite, t.TempDir(), d.Serve())
}

// A certificate in trouble is told within seconds, and when that is over.
func TestNoticeReachesDiscord(t *testing.T) {
	d := testnet.NewDiscord(t)
	p := start(t, fmt.Sprintf(notifySite, t.TempDir(), d.Serve()))
	since := time.Now().Add(-95 * time.Minute)
	p.noticed(tlsmgr.Notice{Kind: "dns", Name: "a.example.org", Sentence: "query timed out looking up CAA", Since: since})
	m := told(t, d, "query timed out looking up CAA")
	if e := m.Payload.Embeds[0]; e.Title != "Certificate in trouble" || !strings.Contains(e.Description, "`a.example.org`") {
		t.Errorf("got %+v", e)
	}
	p.noticed(tlsmgr.Notice{Kind: "dns", Name: "a.example.org", Since: since, Ended: since.Add(95 * time.Minute)})
	told(t, d, "well again after `1h35m`")
	if _, limited := d.Requests(); limited > 0 {
		t.Errorf("%d requests were too fast", limited)
	}
}

// A webhook that was deleted is given up, which the log and health say, until
// the configuration changes. Nothing ever shows its URL.
func TestDeadWebhook(t *testing.T) {
	d, other := testnet.NewDiscord(t), testnet.NewDiscord(t)
	d.Set(testnet.DiscordGone)
	data := t.TempDir()
	p := start(t, fmt.Sprintf(notifySite, data, d.Serve()))
	p.tell(notify.Message{Kind: notify.CertTrouble, Args: map[string]string{"sentence": "one"}})
	givenUp(t, p)
	node := notifyNode(p.outbox.Status()).Resolve()
	if node.State != admin.Fail || !strings.Contains(node.Children[0].Detail, "disabled until its configuration changes") {
		t.Errorf("health says %+v", node)
	}
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if !p.outbox.Status()[0].Disabled {
		t.Error("a reload that changes nothing brought the channel back")
	}
	p.write(fmt.Sprintf(notifySite, data, other.Serve()))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	p.tell(notify.Message{Kind: notify.CertTrouble, Args: map[string]string{"sentence": "two"}})
	told(t, other, "two")
	text := p.log.String() + fmt.Sprint(p.outbox.Status(), node)
	if strings.Contains(text, testnet.DiscordToken) || !strings.Contains(text, "channel disabled") {
		t.Errorf("the log says\n%s", text)
	}
}

// givenUp waits until the only channel is disabled.
func givenUp(t *testing.T, p *process) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !p.outbox.Status()[0].Disabled {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the channel is not given up: %+v", p.outbox.Status())
		}
	}
}

// A Discord that hangs costs requests and the stop nothing.
func TestHangingDiscord(t *testing.T) {
	d := testnet.NewDiscord(t)
	d.Set(testnet.DiscordHangs)
	p := start(t, fmt.Sprintf(notifySite, t.TempDir(), d.Serve()))
	for i := range 1000 {
		p.tell(notify.Message{Kind: notify.CertTrouble, Args: map[string]string{"sentence": fmt.Sprint("number ", i)}})
	}
	res, err := p.client(nil).Get("http://a.example.org/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
	p.end()
	if text := p.log.String(); !strings.Contains(text, `"msg":"stopped"`) {
		t.Errorf("the log says\n%s", text)
	}
}
