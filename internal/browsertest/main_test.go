package browsertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// deadline is the time that each step may take. Only a failure takes that long.
const (
	deadline = 30 * time.Second
	tick     = 5 * time.Millisecond // between two looks at the server
)

// browser is the context of the browser that all tests share. The first test that needs it starts it.
var browser = sync.OnceValues(startBrowser)

// stopBrowser ends the browser if it was started.
var stopBrowser = func() error { return nil }

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "browsertest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs the tests with a temporary folder of their own, which has the browser's profile, too.
func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "browsertest")
	if err != nil {
		return 1, err
	}
	remove, err := removeAtExit(dir)
	if err != nil {
		return 1, errors.Join(err, os.RemoveAll(dir))
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return 1, errors.Join(err, remove())
	}
	code = m.Run()
	return code, errors.Join(stopBrowser(), remove())
}

// removeAtExit starts a process that removes a folder when remove is called, or when this process
// ends in any other way, for example because of a panic. The kernel kills the browser then, but its
// last processes may make the folder again, so it is removed for three seconds.
func removeAtExit(dir string) (remove func() error, err error) {
	const script = `read -r line && exec rm -rf -- "$0"
		for i in 1 2 3 4 5 6; do rm -rf -- "$0"; sleep 0.5; done 2>/dev/null`
	cmd := exec.Command("sh", "-c", script, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the keyboard does not reach it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return func() error {
		_, err := stdin.Write([]byte("\n"))
		return errors.Join(err, stdin.Close(), cmd.Wait())
	}, cmd.Start()
}

// startBrowser starts the browser and returns its context.
func startBrowser() (context.Context, error) {
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.DisableGPU,
		chromedp.WindowSize(1400, 1000),
	)...)
	ctx, _ = chromedp.NewContext(ctx)
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("these tests need a browser: install Chromium, for example with apt-get install chromium: %w", err)
		}
		return nil, fmt.Errorf("the browser cannot be started: %w", err)
	}
	stopBrowser = func() error {
		defer cancel()
		return chromedp.Cancel(ctx)
	}
	return ctx, nil
}

// A tab is a page in the browser.
type tab struct {
	*testing.T
	ctx context.Context

	mutex    sync.Mutex
	messages []chromedp.ConsoleMessage
}

// open opens a page in a tab, which is closed at the end of the test. If the page has written an
// error to its console by then, for which isExpected does not return true, the test fails.
// A nil isExpected expects none.
func open(t *testing.T, url string, isExpected func(chromedp.ConsoleMessage) bool) *tab {
	t.Helper()
	p := openBlank(t, isExpected)
	p.navigate(url)
	return p
}

func openBlank(t *testing.T, isExpected func(chromedp.ConsoleMessage) bool) *tab {
	t.Helper()
	parent, err := browser()
	require.NoError(t, err)
	p := &tab{T: t}
	p.ctx, _ = chromedp.NewContext(parent)
	messages := chromedp.Console(p.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			p.mutex.Lock()
			p.messages = append(p.messages, m)
			p.mutex.Unlock()
		}
	}()
	_, err = chromedp.Call(p.ctx, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	require.NoError(t, err) // the tests run side by side, and a real window would lose the focus to another
	t.Cleanup(func() {
		if t.Failed() {
			p.describe()
		}
		require.NoError(t, chromedp.Cancel(p.ctx))
		<-done
		for _, m := range p.messages {
			if (m.IsException() || m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning) && (isExpected == nil || !isExpected(m)) {
				t.Errorf("the console of the page: %v (%s:%d)", m, m.URL, m.Line+1)
			}
		}
	})
	return p
}

// describe logs what the page shows.
func (p *tab) describe() {
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	p.Logf("the page: %.3000s %v", text, err)
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for _, m := range p.messages {
		p.Logf("its console: %v (%s)", m, m.URL)
	}
}

// do runs an action and returns its value.
func do[V any](p *tab, what string, action chromedp.Action[V]) V {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, deadline)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	require.NoError(p, err, what)
	return v
}

func (p *tab) navigate(url string) {
	p.Helper()
	do(p, url, chromedp.Navigate(url))
}

// wait waits until an expression of JavaScript is true.
func (p *tab) wait(expression string) {
	p.Helper()
	do(p, expression, chromedp.Poll[bool]("!!("+expression+")", chromedp.WithPollingTimeout(0)))
}

// waitText waits until an element has a text.
func (p *tab) waitText(selector, text string) {
	p.Helper()
	p.wait(fmt.Sprintf("document.querySelector(%s)?.textContent === %s", quote(selector), quote(text)))
}

// eval returns the value of an expression of JavaScript, which may be a promise.
func eval[V any](p *tab, expression string) V {
	p.Helper()
	return do(p, expression, chromedp.Evaluate[V](expression))
}

// run runs a statement of JavaScript.
func (p *tab) run(statement string) {
	p.Helper()
	eval[chromedp.Void](p, statement)
}

// text returns the text of an element.
func (p *tab) text(selector string) string {
	p.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%s).textContent", quote(selector)))
}

// click clicks at the element with the mouse.
func (p *tab) click(selector string) {
	p.Helper()
	do(p, "click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// press presses a button with the keyboard.
func (p *tab) press(selector string) {
	p.Helper()
	p.run(fmt.Sprintf("document.querySelector(%s).focus()", quote(selector)))
	do(p, "press "+selector, chromedp.KeyEvent("\r"))
}

// quote returns the JSON of a value, which is JavaScript, too.
func quote(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// isNetworkError reports whether the browser itself wrote that a request failed.
func isNetworkError(m chromedp.ConsoleMessage) bool {
	return m.Source == "network" && strings.HasPrefix(m.Text, "Failed to load resource: ")
}
