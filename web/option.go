package web

import (
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/seed-637b77f9/changefeed"
)

// An Option is an option of the handlers of this package. [Rows] and [RowsFunc] use Deadline,
// Logger and AllowOrigin only.
type Option func(c *config)

type config struct {
	name       string
	buffer     int
	squash     time.Duration
	isSquashed bool
	heartbeat  time.Duration
	deadline   time.Duration
	retry      time.Duration
	maxClients int
	logger     *slog.Logger
	origins    []string
}

func newConfig(opts []Option) config {
	c := config{
		name:      "web",
		buffer:    changefeed.DefaultBuffer,
		heartbeat: 15 * time.Second,
		deadline:  30 * time.Second,
		retry:     2 * time.Second,
		logger:    slog.New(slog.DiscardHandler),
	}
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

// Named sets the name of the feeds: see [changefeed.Named]. The default is "web".
func Named(name string) Option { return func(c *config) { c.name = name } }

// Buffer sets how many changes are buffered for a client: see [changefeed.Buffer]. A client that is
// slower than that gets the present rows anew. The default is [changefeed.DefaultBuffer].
func Buffer(n int) Option {
	mustBe(n >= 1, "Buffer", n, "must be at least 1")
	return func(c *config) { c.buffer = n }
}

// Squash sends a client at most one change of each row in each interval: see [changefeed.Squash].
func Squash(wait time.Duration) Option {
	mustBe(wait >= 0, "Squash", wait, "must not be negative")
	return func(c *config) { c.squash, c.isSquashed = wait, true }
}

// Heartbeat sets after what time without a change a comment is sent, so that proxies do not end the
// connection, and a client that has gone is noticed. The default is 15 seconds.
func Heartbeat(every time.Duration) Option {
	mustBe(every > 0, "Heartbeat", every, "must be positive")
	return func(c *config) { c.heartbeat = every }
}

// Deadline sets how long a client may take to receive what was written. A client that takes longer
// is dropped. The default is 30 seconds. It replaces the WriteTimeout of the server.
func Deadline(d time.Duration) Option {
	mustBe(d > 0, "Deadline", d, "must be positive")
	return func(c *config) { c.deadline = d }
}

// Retry sets after what time a browser connects again when the connection was lost. The default is
// 2 seconds.
func Retry(d time.Duration) Option {
	mustBe(d >= 0, "Retry", d, "must not be negative")
	return func(c *config) { c.retry = d }
}

// MaxClients sets how many clients a handler serves at a time. It answers others with the status
// 503 and the header Retry-After. The default is no limit.
func MaxClients(n int) Option {
	mustBe(n >= 1, "MaxClients", n, "must be at least 1")
	return func(c *config) { c.maxClients = n }
}

// Logger sets a logger. By default nothing is logged. Mistakes of the program are logged at the
// level error: a row that cannot be encoded, and a middleware that keeps a response from being sent
// in parts. Refused requests, and the beginning and the end of each feed, are logged at the level
// debug.
func Logger(l *slog.Logger) Option {
	mustBe(l != nil, "Logger", l, "must not be nil")
	return func(c *config) { c.logger = l }
}

// AllowOrigin lets pages of other origins, such as "https://example.com", read what the handler
// sends. By default only pages of the same origin can. An origin has a scheme and a host, and nothing
// after them, not even a slash. The origin "*" is not allowed.
func AllowOrigin(origins ...string) Option {
	for _, o := range origins {
		u, err := url.Parse(o)
		mustBe(err == nil && o == u.Scheme+"://"+u.Host, "AllowOrigin", o, "must be like https://example.com")
	}
	return func(c *config) { c.origins = append(c.origins, origins...) }
}

// mustBe panics if the value of an option is not what it must be.
func mustBe(ok bool, option string, value any, rule string) {
	if !ok {
		panic(fmt.Sprintf("web: %s(%v): the value %s", option, value, rule))
	}
}
