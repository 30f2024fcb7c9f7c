package clients

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"postern/internal/testnet"
	"postern/internal/tlsmgr"

	_ "github.com/aws/aws-lambda-go/lambda" // testdata/lambda needs it, where go mod tidy does not look
)

// The handlers of docs/callers.md under a Lambda Runtime API, with a token of
// a fake STS, through a real postern: cold, warm, frozen and thawed, with
// postern restarted meanwhile. Every invocation has its result, and each
// reaches the backend once.
func TestLambda(t *testing.T) {
	for _, kind := range []string{"aws-lambda-go", "python", "node", "aws-lambda-ric"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			command := function(t, kind)
			account := testnet.NewAWS(t)
			orders := newOrders(t)
			h := newHome(t, account, orders.URL)
			api := testnet.NewLambda(t)
			name := "localhost:" + h.port
			fn := startFunction(t, command, append(inAWS(account), environment(t, kind, h, account, api, name)...))
			invoke := func(id string, freeze func()) {
				t.Helper()
				if freeze != nil {
					fn.signal(t, syscall.SIGSTOP)
					freeze()
				}
				wait := api.Queue(id, fmt.Sprintf(`{"order":%q}`, id), patience) // waits before the thaw, as in Lambda
				if freeze != nil {
					fn.signal(t, syscall.SIGCONT)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
				defer cancel()
				got, err := wait(ctx)
				if want := fmt.Sprintf(`{"id":%q,"caller":"orders","order":%q}`, id, id); err != nil || got != want && strings.ReplaceAll(got, `": "`, `":"`) != strings.ReplaceAll(want, ",", ", ") {
					t.Fatalf("invocation %s: %q, %v, want %s; the account refused %q", id, got, err, want, account.Refused())
				}
			}
			invoke("cold", nil)
			invoke("warm", nil)
			invoke("frozen", func() {})
			invoke("restarted", func() { h.stop(); h.start() })
			h.stop()
			h.start()
			invoke("restarted-awake", nil)
			if n := account.Calls("sts:GetWebIdentityToken"); n != 1 {
				t.Errorf("%d tokens for 5 invocations", n)
			}
			for id, n := range orders.counts() {
				if n != 1 {
					t.Errorf("invocation %s reached the backend %d times", id, n)
				}
			}
		})
	}
}

// orders is the backend: it tells who called, and counts by Idempotency-Key.
type orders struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
}

func newOrders(t *testing.T) *orders {
	o := &orders{seen: map[string]int{}}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/orders" || r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "want POST /orders with JSON", http.StatusBadRequest)
			return
		}
		id := r.Header.Get("Idempotency-Key")
		o.mu.Lock()
		o.seen[id]++
		o.mu.Unlock()
		order := strings.Trim(strings.TrimPrefix(strings.ReplaceAll(string(body), `": "`, `":"`), `{"order":`), `"}`)
		fmt.Fprintf(w, `{"id":%q,"caller":%q,"order":%q}`, id, r.Header.Get("X-Postern-Caller"), order)
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *orders) counts() map[string]int {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[string]int{}
	for id, n := range o.seen {
		out[id] = n
	}
	return out
}

// function is the command of a function's process.
func function(t *testing.T, kind string) []string {
	t.Helper()
	switch kind {
	case "aws-lambda-go":
		binary := filepath.Join(t.TempDir(), "bootstrap")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./testdata/lambda").CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		return []string{binary}
	case "python":
		return []string{installed(t, "python3"), "runtime.py"}
	case "node":
		return []string{installed(t, "node"), "runtime.mjs"}
	}
	client, err := filepath.Abs("ric/node_modules/aws-lambda-ric/index.mjs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(client), "rapid-client.node")); err != nil {
		t.Skip("AWS's own Node runtime client is not there: npm_config_nodedir=/usr npm ci --prefix test/clients/ric builds it, with cmake, autoconf, automake, libtool, a C++ compiler and the headers of Node")
	}
	return []string{installed(t, "node"), client, "index.handler"}
}

// environment is what Lambda sets, and the function's own variables.
func environment(t *testing.T, kind string, h *home, account *testnet.AWS, api *testnet.Lambda, name string) []string {
	t.Helper()
	dir := t.TempDir()
	install := map[string][]string{
		"python": {"../../examples/lambda/python/index.py", "../../clients/python/postern.py"},
	}[kind]
	if install == nil {
		install = []string{"../../examples/lambda/node/index.mjs", "../../clients/node/postern.mjs"}
	}
	for _, file := range install {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.ReadFile(tlsmgr.LocalRootPath(h.data))
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, bytes.Join([][]byte{account.RootPEM, root}, []byte("\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"HOME_NAMES=" + name, "HOME_AUDIENCE=https://home.test", "NODE_EXTRA_CA_CERTS=" + roots, "SSL_CERT_FILE=" + roots,
		"NODE_OPTIONS=--dns-result-order=ipv4first", "AWS_LAMBDA_RUNTIME_API=" + api.Addr, "_HANDLER=index.handler", "LAMBDA_TASK_ROOT=" + dir,
		"AWS_LAMBDA_FUNCTION_NAME=orders", "AWS_LAMBDA_FUNCTION_VERSION=$LATEST", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE=128",
		"AWS_LAMBDA_LOG_GROUP_NAME=g", "AWS_LAMBDA_LOG_STREAM_NAME=s", "AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x"}
}

// running is a function's process, which can be frozen.
type running struct{ cmd *exec.Cmd }

func startFunction(t *testing.T, command, env []string) running {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals reach its children too
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // Lambda does not ask either
		_ = cmd.Wait()
	})
	return running{cmd}
}

func (r running) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-r.cmd.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
}
