package archtest

// room is one package of ours.
type room struct {
	may  []string // the packages of ours that its code may import
	test []string // further ones that its tests may import
}

// all stands for every package of the table but archtest and testnet.
const all = "all"

// rooms lists our packages by path below the module. A package that is not
// here yet comes with its row in ARCHITECTURE.md first; a test compares the
// two. Rooms that are planned are here with the edges they are planned to
// have. Tests may import internal/testnet anywhere.
var rooms = map[string]room{
	"cmd/proxy":         {may: []string{"internal/app", "internal/config", "internal/doctor"}, test: []string{all}},
	"internal/app":      {may: []string{all}},
	"internal/config":   {},
	"internal/proxy":    {may: []string{"internal/guard", "internal/caller", "internal/route", "internal/upstream", "internal/http1", "internal/h2", "internal/idempotency"}},
	"internal/route":    {},
	"internal/upstream": {may: []string{"internal/http1"}},
	"internal/http1":    {},
	"internal/h2":       {},
	"internal/awsip":    {may: []string{"internal/durable"}},
	"internal/guard":    {may: []string{"internal/durable"}},
	"internal/nft":      {},
	"internal/feeds":    {may: []string{"internal/durable"}},
	"internal/caller":   {may: []string{"internal/durable"}},
	"internal/tlsmgr":   {may: []string{"internal/dnscheck", "internal/durable"}},
	"internal/dnscheck": {may: []string{"internal/durable"}},
	"internal/ddns":     {may: []string{"internal/dnsapi", "internal/dnscheck", "internal/durable"}},
	"internal/dnsapi":   {},
	"internal/notify":   {may: []string{"internal/durable"}},
	"internal/gateway":  {may: []string{"internal/durable"}},
	"internal/publish":  {},
	"internal/tunnel":   {},
	"internal/admin":    {},
	"internal/doctor":   {},
	"internal/service":  {},
	"internal/durable":  {},
	"internal/testnet":  {},
	"internal/archtest": {},
	"clients/go":        {},
	"bench":             {test: []string{"internal/config", "internal/guard"}},
	"test/scanners":     {},
	"test/house":        {test: []string{all}},
	"test/clients":      {test: []string{all}},

	"internal/idempotency": {},
}

// notRooms are folders with Go files that no rule looks at.
var notRooms = []string{}

// never lists imports that are wrong whatever else changes.
var never = []struct{ pkg, imports, why string }{
	{"internal/guard", "net/http", "guard decides from plain values, so that any HTTP engine can ask it"},
	{"internal/route", "net/http", "route is a pure function of host, method and path"},
	{"internal/http1", "net/http", "http1 is the wire format beside net/http, not on top of it"},
	{"internal/h2", "net/http", "h2 is the wire format beside net/http, not on top of it"},
}

// knows lists libraries that are held at arm's length, with the files that
// may import them (tests may as well).
var knows = []struct {
	library string
	files   []string
	why     string
}{
	{"github.com/caddyserver/certmagic", []string{
		"internal/tlsmgr/engine.go",
	}, "certmagic is one driver among possible ones; see ARCHITECTURE.md"},
	{"go.uber.org/zap", []string{
		"internal/tlsmgr/engine.go",
		"internal/tlsmgr/zaplog.go",
	}, "the log is slog; certmagic's zap goes through one bridge"},
	{"github.com/quic-go/quic-go", []string{
		"internal/proxy/h3.go",
		"internal/proxy/h3conn.go",
	}, "HTTP/3 is one engine beside others; what is decided about a request does not know it"},
}

// notShipped may not be among the dependencies of the shipped binary.
var notShipped = []string{
	"github.com/coder/websocket",
	"github.com/google/go-cmp",
	"github.com/jackpal/go-nat-pmp",
	"github.com/letsencrypt/challtestsrv",
	"github.com/letsencrypt/pebble",
	"github.com/prometheus/client_golang/prometheus/testutil",
	"github.com/rogpeppe/go-internal",
	"google.golang.org/grpc",
	"postern/internal/archtest",
	"postern/internal/testnet",
	"testing",
}

// Exceptions, by rule. The key is "file" or "file:Func" or "file:Type.Method"
// below the module; the value is the reason.

// longFiles may have more than 600 lines.
var longFiles = map[string]string{}

// longFuncs may have more than 100 lines.
var longFuncs = map[string]string{}

// goStatements may start a goroutine outside internal/service.
var goStatements = map[string]string{
	"cmd/proxy/main.go:untilSignal":                    "lives as long as the process: the second signal must work whatever hangs",
	"cmd/proxy/run.go:reloadOnSignal":                  "ends with its context; signals are for main to receive",
	"internal/app/demo.go:demo.run":                    "waited for in the same function",
	"internal/app/samplebackend.go:startSampleBackend": "waited for by close; the demo's backend is no service of the process",
	"internal/doctor/doctor.go:look":                   "a look that does not heed its context is given up; any other is waited for",
	"internal/gateway/announce.go:Client.tune":         "waited for by the call that closes its socket; Run makes that one last",
	"internal/h2/workers.go:workers.run":               "goroutines that wait for requests; Serve waits for their work, Server.Close for them",
	"internal/notify/shoutrrr.go:Shoutrrr.Send":        "one at a time; the library takes no context, so a hanging delivery is left behind",
	"internal/proxy/h1forward.go:h1.watch":             "waited for by the function it returns",
	"internal/proxy/h3.go:quicEngine.accept":           "one for each connection; counted, and Shutdown waits for them",
	"internal/proxy/h3.go:quicEngine.leave":            "ends when every connection has; waited for by drain and by Cut",
	"internal/proxy/listen.go:Server.spawn":            "one for each connection; counted, and Shutdown waits for them",
	"internal/upstream/upload.go:link.startUpload":     "waited for: by the exchange, or by Close",
}

// packageVars may hold package variables that change; the key is "file:name".
var packageVars = map[string]string{
	"internal/guard/shape.go:shapes":          "a matcher built from constants, only read afterwards",
	"internal/guard/signatures.go:signatures": "a matcher built from constants, only read afterwards",
	"internal/guard/signatures.go:unasked":    "a matcher built from constants, only read afterwards",
}

// exits may end the process.
var exits = map[string]string{
	"bench/main.go:main": "a program of its own, started with go run",
}

// sleeps may call time.Sleep in a test: helpers that only bubbles of
// testing/synctest call.
var sleeps = map[string]string{
	"internal/ddns/rig_test.go:rig.pass":       "every rig lives in a bubble",
	"internal/h2/raw_test.go:pass":             "every raw client lives in a bubble",
	"internal/tlsmgr/story_test.go:stage.stop": "only the stories call it, inside their bubbles",
}

// constantCalls are the functions whose result may be kept in a package
// variable: nothing can change it afterwards.
var constantCalls = []string{
	"errors.New",
	"fmt.Errorf",
	"netip.AddrFrom4",
	"netip.AddrFrom16",
	"netip.MustParseAddr",
	"netip.MustParsePrefix",
	"netip.PrefixFrom",
	"prometheus.NewDesc",
	"reflect.TypeFor",
	"regexp.MustCompile",
	"strings.NewReplacer",
	"time.Date",
}

// machinePaths are paths that exist on somebody's machine and mean nothing to
// a reader. They are put together here so that this file does not contain
// them.
var machinePaths = []string{
	"/" + "work/",
	"/" + "root/",
	"/tmp/" + "postern",
	"/tmp/" + "bash_jobs",
}
