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

	ScannerServed Kind = "scanner_served" // address, host, path
	LimitHit      Kind = "limit_hit"      // limit, address: a limit on everybody together
	ClientLimited Kind = "client_limited" // limit: one on a single client or route
	BansFull      Kind = "bans_full"      // address
	BansOff       Kind = "bans_off"       // address
	BansOn        Kind = "bans_on"        // none
	GuardOff      Kind = "guard_off"      // mode
	GuardOn       Kind = "guard_on"       // mode

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

	// provoked is an urgent message that strangers can cause as they like: it
	// shares the hour's bound with the digests, and is told once in a while
	// only.
	provoked bool

	args map[string]class
}

// kinds is the table of all kinds.
func kinds() map[Kind]kind {
	type args = map[string]class
	return map[Kind]kind{
		CertTrouble:    {topic: Cert, severity: Alarm, urgent: true, args: args{"name": own, "sentence": sentence}},
		CertWell:       {topic: Cert, severity: Good, urgent: true, args: args{"name": own, "lasted": figure}},
		DNSHostDown:    {topic: DNS, severity: Warning, urgent: true, args: args{"host": own, "sentence": sentence}},
		DNSHostUp:      {topic: DNS, severity: Good, urgent: true, args: args{"host": own, "lasted": figure}},
		AddressChanged: {topic: Address, severity: Info, urgent: true, args: args{"name": own, "old": figure, "new": figure}},
		AddressTrouble: {topic: Address, severity: Warning, urgent: true, args: args{"name": own, "sentence": sentence}},
		AddressWell:    {topic: Address, severity: Good, urgent: true, args: args{"name": own, "lasted": figure}},
		ScannerServed:  {topic: Guard, severity: Alarm, urgent: true, provoked: true, args: args{"address": figure, "host": stranger, "path": stranger}},
		LimitHit:       {topic: Guard, severity: Warning, urgent: true, provoked: true, args: args{"limit": own, "address": figure}},
		ClientLimited:  {topic: Guard, severity: Info, args: args{"limit": own}},
		BansFull:       {topic: Guard, severity: Warning, urgent: true, provoked: true, args: args{"address": figure}},
		BansOff:        {topic: Guard, severity: Alarm, urgent: true, args: args{"address": figure}},
		BansOn:         {topic: Guard, severity: Good, urgent: true},
		GuardOff:       {topic: Guard, severity: Alarm, urgent: true, args: args{"mode": own}},
		GuardOn:        {topic: Guard, severity: Good, urgent: true, args: args{"mode": own}},
		BackendDown:    {topic: Backend, severity: Alarm, urgent: true, args: args{"backend": own, "site": own, "sentence": sentence}},
		BackendUp:      {topic: Backend, severity: Good, urgent: true, args: args{"backend": own, "site": own, "lasted": figure}},
		ReloadRefused:  {topic: System, severity: Warning, args: args{"sentence": sentence}},
		Started:        {topic: System, severity: Info, args: args{"version": own}},
		Notice:         {topic: System, severity: Info, args: args{"sentence": sentence}},
		Test:           {topic: System, severity: Good, urgent: true, args: args{"channel": own}},
	}
}
