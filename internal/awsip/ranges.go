package awsip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/internal/durable"
)

// URL is where AWS publishes its addresses.
const URL = "https://ip-ranges.amazonaws.com/ip-ranges.json"

const (
	every      = 24 * time.Hour
	afterStart = 10 * time.Minute // the least time from the start to the first question
	spread     = 10 * time.Minute // random, so that not all ask at once
	retryFirst = 15 * time.Minute
	timeout    = time.Minute
	maxList    = 16 << 20
)

// Config is what Ranges work with. The zero value asks AWS and keeps nothing.
type Config struct {
	// URL is asked instead of AWS; for tests.
	URL string
	// Client asks; nil means one with a deadline of a minute.
	Client *http.Client
	// File is where the last good list is kept; "" means nowhere.
	File string
	// Log gets a line when the list cannot be read, and when it can again. nil
	// means none.
	Log *slog.Logger
	// Metrics takes the metrics; nil means they are not registered.
	Metrics prometheus.Registerer
}

// Ranges know the addresses of AWS. All methods are safe for concurrent use.
type Ranges struct {
	cfg Config
	log *slog.Logger
	set atomic.Pointer[Set]

	mu     sync.Mutex
	status Status // guarded by mu
	etag   string // guarded by mu; of the list in use

	results *prometheus.CounterVec
}

// Status is how the list is doing.
type Status struct {
	// Spans is how many separate spans of addresses are known.
	Spans int
	// Read is when the list was read from AWS, or found to be the same; zero:
	// never, and the copy that was shipped is in use.
	Read time.Time
	// Err is why the last attempt came to nothing; nil: it did not.
	Err error
}

// New makes Ranges that know the shipped copy. It starts no goroutine and
// reads no file: Load and Run do.
func New(cfg Config) *Ranges {
	if cfg.URL == "" {
		cfg.URL = URL
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: timeout}
	}
	r := &Ranges{cfg: cfg, log: cfg.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.use(Shipped())
	r.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_awsip_refreshes_total", Help: "Attempts to read the list of the addresses of AWS, by result.",
	}, []string{"result"})
	for _, result := range []string{"new", "same", "failed"} {
		r.results.WithLabelValues(result)
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(r.results, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_awsip_spans", Help: "Separate spans of addresses of AWS that are known.",
		}, func() float64 { return float64(r.set.Load().Len()) }))
	}
	return r
}

func (r *Ranges) use(s *Set) { r.set.Store(s) }

// Overlaps reports whether p has an address of AWS. It allocates nothing.
func (r *Ranges) Overlaps(p netip.Prefix) bool { return r.set.Load().Overlaps(p) }

// Has reports whether AWS has the address. It allocates nothing.
func (r *Ranges) Has(a netip.Addr) bool { return r.set.Load().Has(a) }

// Status tells how the list is doing.
func (r *Ranges) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Spans = r.set.Load().Len()
	return s
}

// kept is the file: the list as it was published, with its entity tag.
type kept struct {
	Version int             `json:"version"`
	Read    time.Time       `json:"read"`
	ETag    string          `json:"etag,omitempty"`
	List    json.RawMessage `json:"list"`
}

const keptVersion = 1

// Load takes over the list of the last run. One that is damaged is told in the
// log and left: the next one replaces it.
func (r *Ranges) Load() {
	if r.cfg.File == "" {
		return
	}
	data, err := readFile(r.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	var set *Set
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err == nil && k.Version != keptVersion {
		err = fmt.Errorf("version %d, want %d", k.Version, keptVersion)
	}
	if err == nil {
		set, err = parse(k.List)
	}
	if err != nil {
		r.log.Warn("kept addresses of AWS not usable: the shipped ones are used", "file", r.cfg.File, "err", err)
		return
	}
	r.use(set)
	r.mu.Lock()
	r.status.Read, r.etag = k.Read, k.ETag
	r.mu.Unlock()
}

// readFile is os.ReadFile with a bound.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxList+1<<10+1))
	if err == nil && len(data) > maxList+1<<10 {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxList)
	}
	return data, err
}

// Run keeps the list fresh until ctx ends: once a day, and not before 10
// minutes after the start. It returns nil.
func (r *Ranges) Run(ctx context.Context) error {
	r.mu.Lock()
	// A clock that is not set yet says that it was read far in the future.
	wait := max(min(time.Until(r.status.Read.Add(every)), every), afterStart)
	r.mu.Unlock()
	retry := retryFirst
	for {
		timer := time.NewTimer(wait + rand.N(spread))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := r.Refresh(ctx); err != nil {
			wait, retry = retry, min(2*retry, every)
		} else {
			wait, retry = every, retryFirst
		}
	}
}

// Refresh reads the list now. On an error the one in use stays.
func (r *Ranges) Refresh(ctx context.Context) error {
	err := r.refresh(ctx, time.Now())
	r.mu.Lock()
	failed := r.status.Err != nil
	r.status.Err = err
	r.mu.Unlock()
	switch {
	case err != nil && ctx.Err() == nil:
		r.results.WithLabelValues("failed").Inc()
		if !failed {
			r.log.Warn("addresses of AWS not read: the last good list stays", "err", err)
		}
	case err == nil && failed:
		r.log.Info("addresses of AWS read again")
	}
	return err
}

func (r *Ranges) refresh(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.cfg.URL, nil)
	if err != nil {
		return fmt.Errorf("addresses of AWS: %w", err)
	}
	r.mu.Lock()
	if r.etag != "" {
		req.Header.Set("If-None-Match", r.etag)
	}
	r.mu.Unlock()
	res, err := r.cfg.Client.Do(req)
	if err != nil {
		return fmt.Errorf("addresses of AWS: %w", err)
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusNotModified:
		r.mu.Lock()
		r.status.Read = now
		r.mu.Unlock()
		r.results.WithLabelValues("same").Inc()
		return nil
	case http.StatusOK:
	default:
		return fmt.Errorf("addresses of AWS: %s answered %d, want 200", r.cfg.URL, res.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxList+1))
	if err == nil && len(data) > maxList {
		err = fmt.Errorf("larger than %d bytes", maxList)
	}
	if err != nil {
		return fmt.Errorf("addresses of AWS: read %s: %w", r.cfg.URL, err)
	}
	set, err := parse(data)
	if err != nil {
		return fmt.Errorf("addresses of AWS: %s is not such a list: %w", r.cfg.URL, err)
	}
	r.use(set)
	etag := res.Header.Get("ETag")
	if len(etag) > 256 {
		etag = ""
	}
	r.mu.Lock()
	r.status.Read, r.etag = now, etag
	r.mu.Unlock()
	r.results.WithLabelValues("new").Inc()
	return r.keep(kept{Version: keptVersion, Read: now.UTC(), ETag: etag, List: data})
}

// keep writes the file.
func (r *Ranges) keep(k kept) error {
	if r.cfg.File == "" {
		return nil
	}
	data, err := json.Marshal(k)
	if err == nil {
		err = durable.WriteFile(r.cfg.File, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("addresses of AWS: keep: %w", err)
	}
	return nil
}
