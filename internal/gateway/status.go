package gateway

import (
	"fmt"
	"net/netip"
	"time"
)

// Port is a port that callers come to and where they shall arrive here.
type Port struct {
	Proto    string // "tcp" or "udp"
	External uint16 // at the router
	Internal uint16 // here
}

// String is "443/tcp", after the external port.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.External, p.Proto) }

// State is how a mapping is doing. It is a metric label.
type State string

// The states.
const (
	// Wanted was not asked for yet.
	Wanted State = "wanted"

	// Mapped is there.
	Mapped State = "mapped"

	// Conflict means that another device of the home has the port: Holder.
	Conflict State = "conflict"

	// Refused means that the router does not let us.
	Refused State = "refused"

	// Failed means that the router does not answer, or not sensibly.
	Failed State = "failed"
)

// Holder is who has a port that we want.
type Holder struct {
	Client      string // its address at home, "" if the router does not tell
	Port        uint16
	Description string // what it called the mapping; safe to print
}

// String is "192.168.1.7:443 (camera)".
func (h Holder) String() string {
	s := "another device"
	if h.Client != "" {
		s = fmt.Sprintf("%s:%d", h.Client, h.Port)
	}
	if h.Description != "" {
		s += fmt.Sprintf(" (%s)", h.Description)
	}
	return s
}

// Mapping is one port and how it is doing. For IPv6 it is a pinhole in the
// router's firewall: nothing is translated.
type Mapping struct {
	Port
	Addr     netip.Addr // ours that callers arrive at; zero: not known yet
	State    State
	Since    time.Time     // when State became what it is
	Protocol Protocol      // by which it was mapped; "" unless mapped
	ByHand   bool          // mapped, but not by us: the owner did, or nothing filters
	External netip.Addr    // the router's address, where the protocol tells it
	Lease    time.Duration // granted; 0: for ever
	Expires  time.Time     // zero: never
	Next     time.Time     // when it is renewed or tried again
	Holder   *Holder       // of a conflict; nil: not known
	Reason   string        // why it is not mapped, or not renewed; "" if all is well

	lineDown bool // that is the reason
}

// IsPinhole tells whether m is for IPv6.
func (m Mapping) IsPinhole() bool { return m.Addr.Is6() }

// Action is what the owner can do about m, "" if nothing.
func (m Mapping) Action() string {
	by := fmt.Sprintf("forward %s to this machine's port %d in the router's settings by hand", m.Port, m.Internal)
	if m.Addr.IsValid() {
		by = fmt.Sprintf("forward %s to %s port %d in the router's settings by hand", m.Port, m.Addr, m.Internal)
	}
	if m.IsPinhole() {
		by = fmt.Sprintf("allow %d/%s to %s in the router's IPv6 firewall by hand", m.Internal, m.Proto, m.Addr)
	}
	switch m.State {
	case Conflict:
		if m.Holder == nil {
			return fmt.Sprintf("look in the router's settings who has %s: another device's forwarding, or the router's own remote access", m.Port)
		}
		return fmt.Sprintf("remove the mapping of %s to %s in the router's settings, or turn off UPnP in that device", m.Port, m.Holder)
	case Refused:
		return "allow this machine to open ports (also below 1024) in the router's settings, or " + by
	case Failed:
		if m.lineDown {
			return "look whether the router's line is up, or restart the router"
		}
		return "turn on UPnP, NAT-PMP or PCP in the router's settings, or " + by
	}
	return ""
}

// Status is what is known without asking again.
type Status struct {
	Running  bool      // whether Run has anything to do
	Answer   *Answer   // the last answer; nil: there was none
	Asked    time.Time // when the router was last asked; zero: never
	Err      error     // why it did not answer then; nil: it did
	Since    time.Time // since when it is so
	Restarts int       // of the router, seen since the start
	Mappings []Mapping // in the order wanted; pinholes after the others
}

// What says what a Change is about.
type What string

// The changes.
const (
	AddressChanged What = "address"    // the router has another address: Answer
	RouterSilent   What = "silent"     // the router does not answer any more: Err
	RouterBack     What = "back"       // it does again
	MappingMade    What = "mapped"     // Mapping became Mapped
	MappingLost    What = "lost"       // Mapping was Mapped and is not any more
	MappingFailed  What = "not_mapped" // Mapping is in Conflict, Refused or Failed for the first time, or in another way
	MappingRemoved What = "not_wanted" // Mapping was removed, because nobody wants it
)

// Change is what OnChange is told.
type Change struct {
	What    What
	Before  netip.Addr // of AddressChanged; zero: there was none
	Answer  Answer     // of AddressChanged and RouterBack
	Mapping Mapping    // of the Mapping… ones
	Err     error      // of RouterSilent
}

// Status returns a snapshot.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Mappings = append([]Mapping(nil), s.Mappings...)
	if s.Answer != nil {
		a := *s.Answer
		s.Answer = &a
	}
	return s
}

// publish makes what is known the status. The caller has the turn.
func (c *Client) publish(running bool) {
	ms := make([]Mapping, 0, len(c.talk.entries))
	for _, e := range c.talk.entries {
		ms = append(ms, e.mapping())
	}
	c.metrics.mappings(ms)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status.Running, c.status.Mappings, c.status.Restarts = running, ms, c.talk.restarts
}

// noteAnswer remembers what ask returned and tells what is new. The caller has
// the turn.
func (c *Client) noteAnswer(a Answer, err error) {
	now := time.Now()
	c.mu.Lock()
	was := c.status
	if c.status.Asked.IsZero() || (was.Err == nil) != (err == nil) {
		c.status.Since = now
	}
	c.status.Asked, c.status.Err = now, err
	if err == nil {
		c.status.Answer = &a
	}
	c.mu.Unlock()
	c.metrics.answer(a, err)
	if err != nil {
		if was.Asked.IsZero() || was.Err == nil {
			c.log.Warn("router does not tell its address", "err", err)
			c.tell(Change{What: RouterSilent, Err: err})
		}
		return
	}
	if was.Err != nil {
		c.log.Info("router answers", "router", a.Gateway.String(), "protocol", string(a.Protocol))
		c.tell(Change{What: RouterBack, Answer: a})
	}
	if was.Answer == nil || was.Answer.Addr != a.Addr {
		var before netip.Addr
		if was.Answer != nil {
			before = was.Answer.Addr
		}
		c.log.Info("address of the router", "address", a.Addr.String(), "kind", string(a.Kind), "protocol", string(a.Protocol), "router", a.Gateway.String(), "model", a.Router)
		c.tell(Change{What: AddressChanged, Before: before, Answer: a})
	}
}

func (c *Client) tell(ch Change) {
	if c.cfg.OnChange != nil {
		c.cfg.OnChange(ch)
	}
}
