package tlsmgr

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	askTimeout = 2 * time.Second
	askAtOnce  = 8
	askKeep    = time.Minute
)

// asker puts the question "may this name have a certificate?" to the user's
// own service. The questions come from strangers' server names, so their
// number is bounded: answers are remembered, questions for one name share one
// call, and only a few calls run at once.
type asker struct {
	client *http.Client
	slots  chan struct{}
	flight singleflight.Group

	mu      sync.Mutex
	answers *memory[answer] // by URL and name; guarded by mu
}

type answer struct {
	ok    bool
	until time.Time
}

var errAskBusy = errors.New("too many questions at once")

func newAsker() *asker {
	return &asker{
		client: &http.Client{
			Timeout:       askTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{ // no proxy: the service is the user's own
				MaxIdleConnsPerHost: 2, MaxConnsPerHost: askAtOnce, IdleConnTimeout: 30 * time.Second,
				ResponseHeaderTimeout: askTimeout, MaxResponseHeaderBytes: 16 << 10, ForceAttemptHTTP2: true,
			},
		},
		slots:   make(chan struct{}, askAtOnce),
		answers: newMemory[answer](memorySize),
	}
}

// ask returns the service's answer. The call is not ended by ctx, which
// belongs to one handshake of perhaps many that wait for it.
func (a *asker) ask(ctx context.Context, base, name string) (bool, error) {
	key := base + " " + name
	a.mu.Lock()
	known, ok := a.answers.get(key)
	a.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.ok, nil
	}
	v, err, _ := a.flight.Do(key, func() (any, error) {
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
		default:
			return false, errAskBusy
		}
		ok, err := a.call(context.WithoutCancel(ctx), base, name)
		if err != nil {
			return false, err
		}
		a.mu.Lock()
		a.answers.put(key, answer{ok, time.Now().Add(askKeep)})
		a.mu.Unlock()
		return ok, nil
	})
	return v.(bool), err
}

func (a *asker) call(ctx context.Context, base, name string) (bool, error) {
	u, err := url.Parse(base)
	if err != nil {
		return false, errors.New("on_demand ask is not a URL") // checked when it was configured
	}
	q := u.Query()
	q.Set("domain", name)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, errors.New("on_demand ask is not a URL")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL may hold a secret
		}
		return false, err
	}
	if err := resp.Body.Close(); err != nil {
		return false, err
	}
	return resp.StatusCode == http.StatusOK, nil
}

func (a *asker) close() { a.client.CloseIdleConnections() }
