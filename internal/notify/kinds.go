package notify

// Topic is what a message is about. The set is closed; owners route by it.
type Topic string

// The topics.
const (
	Cert    Topic = "cert"    // certificates and their authorities
	DNS     Topic = "dns"     // the DNS host: down, up
	Address Topic = "address" // the address this house has on the Internet
	Guard   Topic = "guard"   // scanners, bans, limits
	Backend Topic = "backend" // the apps behind us
	System  Topic = "system"  // postern itself
)

// Topics returns every topic.
func Topics() []Topic { return []Topic{Cert, DNS, Address, Guard, Backend, System} }

// Severity is how bad a message is.
type Severity uint8

// The severities, from harmless to bad.
const (
	Info Severity = iota
	Good          // something that was wrong is over
	Warning
	Alarm
)

// A Kind is one sort of message: its texts are in the table of texts, in
// every language. The set is closed.
type Kind string

// The kinds, with the arguments each wants.
const (
	CertTrouble Kind = "cert_trouble" // name, sentence
	CertWell    Kind = "cert_well"    // name, lasted

	DNSHostDown Kind = "dns_host_down" // host, sentence
	DNSHostUp   Kind = "dns_host_up"   // host, lasted

	AddressChanged Kind = "address_changed" // name, old, new
	AddressTrouble Kind = "address_trouble" // name, sentence
	AddressWell    Kind = "address_well"    // name, lasted

	ScannerServed Kind = "scanner_served" // address, host, path, status
	LimitHit      Kind = "limit_hit"      // limit, sentence
	GuardOff      Kind = "guard_off"      // sentence
	GuardOn       Kind = "guard_on"       // sentence
	GuardNotice   Kind = "guard_notice"   // sentence
	Banned        Kind = "banned"         // address, reason, until

	BackendDown Kind = "backend_down" // backend, site, sentence
	BackendUp   Kind = "backend_up"   // backend, site, lasted

	ReloadRefused Kind = "reload_refused" // sentence
	Started       Kind = "started"        // version
	Notice        Kind = "notice"         // sentence
	Test          Kind = "test"           // channel
)

// class is how the value of an argument is shown.
type class uint8

const (
	// stranger is a text that somebody else chose: quoted, and nothing in it
	// becomes a link, a mention or a command of the service.
	stranger class = iota
	// own is a name of the configuration or of this machine.
	own
	// sentence is a sentence of ours for people; strangers' words in it are
	// quoted but there, so it is handled as theirs and may be longer.
	sentence
	// figure is a number, a time or a duration.
	figure
	// words is a literal of the table of texts; no argument has it.
	words
)

// kind is what there is to know of a Kind besides its texts.
type kind struct {
	topic    Topic
	severity Severity

	// urgent is a message that a person must have now, also at night; others
	// wait for the digest.
	urgent bool

	args map[string]class
}

// kinds is the table of all kinds.
func kinds() map[Kind]kind {
	about := func(name string, c class, more ...any) map[string]class {
		m := map[string]class{name: c}
		for i := 0; i+1 < len(more); i += 2 {
			m[more[i].(string)] = more[i+1].(class)
		}
		return m
	}
	return map[Kind]kind{
		CertTrouble:    {Cert, Alarm, true, about("name", own, "sentence", sentence)},
		CertWell:       {Cert, Good, true, about("name", own, "lasted", figure)},
		DNSHostDown:    {DNS, Warning, true, about("host", own, "sentence", sentence)},
		DNSHostUp:      {DNS, Good, true, about("host", own, "lasted", figure)},
		AddressChanged: {Address, Info, true, about("name", own, "old", figure, "new", figure)},
		AddressTrouble: {Address, Warning, true, about("name", own, "sentence", sentence)},
		AddressWell:    {Address, Good, true, about("name", own, "lasted", figure)},
		ScannerServed:  {Guard, Alarm, true, about("address", figure, "host", stranger, "path", stranger, "status", figure)},
		LimitHit:       {Guard, Warning, true, about("limit", own, "sentence", sentence)},
		GuardOff:       {Guard, Alarm, true, about("sentence", sentence)},
		GuardOn:        {Guard, Good, true, about("sentence", sentence)},
		GuardNotice:    {Guard, Warning, true, about("sentence", sentence)},
		Banned:         {Guard, Info, false, about("address", figure, "reason", own, "until", figure)},
		BackendDown:    {Backend, Alarm, true, about("backend", own, "site", own, "sentence", sentence)},
		BackendUp:      {Backend, Good, true, about("backend", own, "site", own, "lasted", figure)},
		ReloadRefused:  {System, Warning, false, about("sentence", sentence)},
		Started:        {System, Info, false, about("version", own)},
		Notice:         {System, Info, false, about("sentence", sentence)},
		Test:           {System, Good, true, about("channel", own)},
	}
}
