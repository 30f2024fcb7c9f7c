package tlsmgr

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/testnet"

	"github.com/mholt/acmez/v3/acme"
)

// accountFiles are those of every e-mail.
func accountFiles(t *testing.T, dir, ext string) []string {
	t.Helper()
	return must(filepath.Glob(filepath.Join(dir, "acme", "*", "users", "*", "*"+ext)))
}

// Whatever happens to the account on disk or at the authority, the next
// attempt works, without a person.
func TestAccountHeals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		spoil    func(t *testing.T, h *house, cfg *Config)
		accounts int // at the authority in the end
	}{
		{"e-mail changed", func(_ *testing.T, _ *house, cfg *Config) { cfg.Email = "new@example.org" }, 1},
		{"e-mail removed", func(_ *testing.T, _ *house, cfg *Config) { cfg.Email = "" }, 1},
		{"registration is junk", func(t *testing.T, _ *house, cfg *Config) {
			writeFile(t, accountFiles(t, cfg.Dir, ".json")[0], "{")
		}, 2},
		{"key is junk", func(t *testing.T, _ *house, cfg *Config) {
			writeFile(t, accountFiles(t, cfg.Dir, ".key")[0], "junk")
		}, 2},
		{"key is missing", func(t *testing.T, _ *house, cfg *Config) {
			if err := os.Remove(accountFiles(t, cfg.Dir, ".key")[0]); err != nil {
				t.Fatal(err)
			}
		}, 2},
		{"deactivated", func(t *testing.T, h *house, cfg *Config) {
			m := h.m.Load()
			a := m.eng.now.Load().list[0].certifier.(*authority)
			acct := must(a.loadAccount(t.Context(), a.email))
			acct.Status = acme.StatusDeactivated
			client := a.acmez(nil)
			if _, err := client.GetDirectory(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := client.UpdateAccount(t.Context(), acme.Account{Location: acct.Location, PrivateKey: acct.PrivateKey, Status: acme.StatusDeactivated}); err != nil {
				t.Fatal(err)
			}
		}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, testnet.CAOptions{})
			cfg := h.config(t.TempDir(), h.name)
			book := &logBook{}
			cfg.Log = book.logger()
			m, d := h.open(t, cfg)
			stop := run(t, m)
			served(t, d, h.name, h.ca.IssuerRoots)
			stop()
			tc.spoil(t, h, &cfg)
			m.Close()

			cfg.Names = append(cfg.Names, "more-"+h.name)
			again := mustNew(t, cfg)
			h.m.Store(again)
			run(t, again)
			d2 := openDoor(t, again.TLSConfig())
			served(t, d2, "more-"+h.name, h.ca.IssuerRoots)
			if n := h.ca.Accounts(); n != tc.accounts {
				t.Errorf("%d accounts made, want %d\n%s", n, tc.accounts, book)
			}
			if n := len(accountFiles(t, cfg.Dir, ".json")); n != 1 {
				t.Errorf("%d accounts on disk, want 1", n)
			}
			if strings.Contains(book.String(), "PRIVATE KEY") {
				t.Error("the log holds a key")
			}
		})
	}
}

// A crash at any moment of a write leaves the old certificate or the new one.
func TestJournal(t *testing.T) {
	t.Parallel()
	issue := func(dir string) (cert, key string) {
		cert, key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
		writePair(t, cert, key, "one", time.Now().Add(time.Hour), "home.example")
		return string(must(os.ReadFile(cert))), string(must(os.ReadFile(key)))
	}
	oldCert, oldKey := issue(t.TempDir())
	newCert, newKey := issue(t.TempDir())
	ck, kk, mk := siteKeys("ca", "home.example")
	store := func(j *journal, key, value string) {
		t.Helper()
		if err := j.Store(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(dir, want string) {
		t.Helper()
		j := newJournal(dir) // the next process
		pair, err := j.pair("ca", "home.example")
		if err != nil {
			t.Fatal(err)
		}
		if got := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw}); string(got) != want {
			t.Error("neither the one nor the other")
		}
		if _, err := os.Stat(j.Filename("certificates/ca/home.example/" + journalFile)); err == nil {
			t.Error("the journal stayed")
		}
	}
	for _, tc := range []struct {
		name  string
		crash func(j *journal)
		want  string
	}{
		{"before anything", func(*journal) {}, oldCert},
		{"after the key", func(j *journal) { store(j, kk, newKey) }, oldCert},
		{"after the certificate", func(j *journal) { store(j, kk, newKey); store(j, ck, newCert) }, oldCert},
		{"after the journal", func(j *journal) {
			store(j, kk, newKey)
			store(j, ck, newCert)
			store(j, mk, "{}")
			// as if only the key had reached its place
			raw := must(json.Marshal(map[string][]byte{kk: []byte(newKey), ck: []byte(newCert), mk: []byte("{}")}))
			writeFile(t, j.Filename("certificates/ca/home.example/"+journalFile), string(raw))
			writeFile(t, j.Filename(ck), oldCert)
		}, newCert},
		{"undone by certmagic", func(j *journal) {
			store(j, kk, newKey)
			store(j, ck, newCert)
			if err := j.Delete(t.Context(), kk); err != nil {
				t.Fatal(err)
			}
		}, oldCert},
	} {
		dir := t.TempDir()
		j := newJournal(dir)
		store(j, kk, oldKey)
		store(j, ck, oldCert)
		store(j, mk, "{}")
		whole(dir, oldCert)
		tc.crash(j)
		t.Run(tc.name, func(*testing.T) { whole(dir, tc.want) })
	}
}

// Kill the process in every state a name can be in: nothing is lost, and
// nothing is spent twice.
func TestRestartInEveryState(t *testing.T) {
	t.Parallel()
	limited := func(string) error {
		return acme.Problem{Type: acme.ProblemTypeRateLimited, Status: 429, Detail: "too many new orders, retry after 2000-01-02 00:00:00 UTC"}
	}
	refused := func(string) error {
		return acme.Problem{Type: acme.ProblemTypeConnection, Status: 400, Detail: "Timeout during connect"}
	}
	for _, tc := range []struct {
		name   string
		set    func(s *stage)
		kill   time.Duration // after the start
		orders int           // an hour after the restart
		state  string
		wait   reason
		told   int
	}{
		{"before anything", func(*stage) {}, 0, 1, StateOK, whyNothing, 0},
		{"an order under way", func(*stage) {}, 500 * time.Millisecond, 2, StateOK, whyNothing, 0},
		{"obtained", func(*stage) {}, 10 * time.Second, 1, StateOK, whyNothing, 0},
		{"red", func(s *stage) { s.setDNS(caaDead) }, 10 * time.Minute, 0, StateMissing, whyDNS, 1},
		{"limited", func(s *stage) { s.cas[0].refuse = limited }, 10 * time.Minute, 1, StateMissing, whyLimited, 1},
		{"refused", func(s *stage) { s.cas[0].refuse = refused }, 35 * time.Minute, 4, StateMissing, "", 1},
		{"authority down", func(s *stage) { s.cas[0].down = &unreached{context.DeadlineExceeded} }, 10 * time.Minute, 0, StateMissing, whyAuthority, 1},
		{"clock not set", func(s *stage) { s.synced = false }, 3 * time.Minute, 0, StateMissing, whyClock, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := play(t, dir, []string{"home.example"}, 90*days)
				tc.set(s)
				if tc.kill > 0 {
					s.run()
					time.Sleep(tc.kill)
				}
				// Killed: what is on disk now is all that is left. The dead
				// process's goroutines go on in another folder.
				copied := t.TempDir()
				if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				dead := s.m
				if tc.kill > 0 {
					s.end()
					<-s.ended
				}
				dead.Close()
				s.cfg.Dir = copied
				s.open()
				s.run()
				if tc.name == "obtained" {
					if _, err := s.m.getCertificate(clientHello("home.example")); err != nil {
						t.Errorf("not served at once after the restart: %v", err)
					}
				}
				time.Sleep(time.Hour)
				orders := s.cas[0].orderTimes()
				if tc.name == "refused" {
					if n := busiestHour(orders); n > 4 {
						t.Errorf("%d attempts in an hour across a restart", n)
					}
				} else if len(orders) != tc.orders {
					t.Errorf("%d orders, want %d", len(orders), tc.orders)
				}
				st := s.status("home.example")
				if st.State != tc.state || tc.name != "refused" && st.Waiting != string(tc.wait) {
					t.Errorf("status %+v, want %s waiting for %q", st, tc.state, tc.wait)
				}
				if n := len(s.said()); n != tc.told {
					t.Errorf("told %d times, want %d: %+v", n, tc.told, s.said())
				}
				s.stop()
			})
		})
	}
}
