package report

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/powerd/powerd/internal/bench"
)

var shots = flag.String("shots", "", "folder to put screenshots of the page in")

// A tab is a page open in a headless Chromium, which Debian packages as chromium.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu        sync.Mutex
	complaint []string // of the console
	fetched   []string
}

// open writes a run's page and opens it from its file. At the end of the test it must have
// complained of nothing and fetched nothing.
func open(t *testing.T, r Run) *tab {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, r); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "bench.html")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	limited, end := context.WithTimeout(t.Context(), 5*time.Minute) // a browser that hangs fails here, and is named
	t.Cleanup(end)
	ctx, stop := chromedp.NewExecAllocator(limited, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // Chromium has none for root
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(stop)
	ctx, leave := chromedp.NewContext(ctx)
	t.Cleanup(leave)
	p := &tab{t: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(ev any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			p.complaint = append(p.complaint, fmt.Sprintf("exception: %+v", ev.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			p.complaint = append(p.complaint, fmt.Sprintf("console.%s", ev.Type))
		case *log.EventEntryAdded:
			p.complaint = append(p.complaint, fmt.Sprintf("%s: %s", ev.Entry.Source, ev.Entry.Text))
		case *network.EventRequestWillBeSent:
			p.fetched = append(p.fetched, ev.Request.URL)
		}
	})
	if err != nil {
		t.Fatalf("cannot start Chromium (apt-get install chromium): %v", err)
	}
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.complaint) > 0 {
			t.Errorf("the console has %q", p.complaint)
		}
		if len(p.fetched) != 1 || p.fetched[0] != "file://"+name {
			t.Errorf("fetched %q, want the page alone", p.fetched)
		}
	})
	p.do(chromedp.EmulateViewport(1200, 900), chromedp.Navigate("file://"+name))
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// eval returns what a script is.
func eval[T any](p *tab, format string, args ...any) T {
	p.t.Helper()
	script := fmt.Sprintf(format, args...)
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	return v
}

// drawn counts the elements that match and have an extent.
func (p *tab) drawn(selector string) int {
	p.t.Helper()
	return eval[int](p, `[...document.querySelectorAll(%q)].filter(e => { const b = e.getBBox(); return b.width > 0 || b.height > 0; }).length`, selector)
}

// media sets media features, or print.
func (p *tab) media(media, scheme string) {
	p.t.Helper()
	_, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

// The page draws what the run found, for whichever case is chosen, by mouse and by keys.
func TestPage(t *testing.T) {
	r := newRun(t)
	p := open(t, r)

	dots := 0
	for _, row := range r.Rows {
		for _, o := range row.Results {
			if row.Limit > 0 && !o.Late() {
				dots++
			}
		}
	}
	if n := p.drawn("#overview circle.dot"); dots == 0 || n != dots {
		t.Errorf("all cases: %d dots, want %d", n, dots)
	}
	if n := eval[int](p, `document.querySelectorAll("#table tbody tr").length`); n != len(r.Rows) {
		t.Errorf("the table has %d rows, want %d", n, len(r.Rows))
	}

	before := map[string]string{}
	for i, row := range r.Rows {
		if i > 0 {
			p.do(chromedp.Click(chromedp.ID("next")))
		}
		name := row.Machine + ", " + row.Load
		if got, want := eval[string](p, `document.getElementById("chosen").textContent`), fmt.Sprintf("One case: %s on %s", row.Load, row.Machine); got != want {
			t.Fatalf("chosen is %q, want %q", got, want)
		}
		c := r.Cases[i]
		policies := len(r.Policies)
		late, hasLatency := 0, 0
		for _, o := range row.Results {
			if o.Late() {
				late++
			}
			if len(o.Latency) > 0 {
				hasLatency++
			}
		}
		states := len(c.Machine.Spec.Clusters[0].Idle)
		for selector, want := range map[string]int{
			"#energy rect.bar":                        2 * policies,
			"#energy rect[fill^=url]":                 late,
			"#energy line.rule":                       1,
			"#power polyline.line":                    policies,
			"#speed polyline.line":                    policies,
			"#latency polyline.line":                  hasLatency,
			"#curve circle.critical":                  1,
			"#curve polyline.curve":                   1,
			"#curve circle.slow, #curve circle.fast":  len(c.Machine.Platform.Curve.OPPs),
			"#curve polygon":                          3,
			"#idle rect.part":                         (states + 1) * policies, // some have no width
			".figures .origin":                        7,
			"#numbers tbody tr":                       policies,
			"#energy svg[aria-label]":                 1,
			"#power svg[tabindex='0'][role=img] text": -1,
		} {
			n := eval[int](p, `document.querySelectorAll(%q).length`, selector)
			if want < 0 && n == 0 || want >= 0 && n != want {
				t.Errorf("%s: %s: %d, want %d", name, selector, n, want)
			}
		}
		for _, selector := range []string{"#energy rect.bar", "#power polyline", "#speed polyline", "#idle rect.awake", "#curve polygon"} {
			if p.drawn(selector) == 0 {
				t.Errorf("%s: %s has no extent", name, selector)
			}
		}
		// Where things come from is told under every plot.
		for _, origin := range eval[[]string](p, `[...document.querySelectorAll("#case .origin")].map(e => e.textContent)`) {
			if !strings.Contains(origin, row.Machine) || !strings.Contains(origin, row.Kind) || !strings.Contains(origin, "seed") || !strings.Contains(origin, r.Version) {
				t.Errorf("%s: a plot's origin is %q", name, origin)
			}
		}
		for _, figure := range []string{"energy", "power", "speed", "idle", "numbers"} {
			now := eval[string](p, `document.getElementById(%q).innerHTML`, figure)
			if now == before[figure] {
				t.Errorf("%s: %s is as it was for the case before", name, figure)
			}
			before[figure] = now
		}
	}

	// The critical point is where the platform has it.
	choice := r.Cases[len(r.Cases)-1].Machine.Platform.Choose()
	want := fmt.Sprintf("critical: %.4g MHz", choice.Points[choice.Critical].Frequency.MHz())
	if got := eval[string](p, `document.querySelector("#curve svg text.strong").textContent`); got != want {
		t.Errorf("the curve says %q, want %q", got, want)
	}

	// By name: the machine's cases are offered, and the load is kept.
	p.do(chromedp.SetValue(chromedp.ID("machine"), "0"))
	p.do(chromedp.Evaluate[chromedp.Void](`document.getElementById("machine").dispatchEvent(new Event("change"))`))
	if got, want := eval[string](p, `document.getElementById("chosen").textContent`), "One case: web on "+r.Rows[0].Machine; got != want {
		t.Errorf("chosen is %q, want %q", got, want)
	}

	// A link of the table, and a dot, lead to their case.
	p.do(chromedp.Click(`#table a[href="#case-1"]`))
	if got := eval[string](p, `document.activeElement.id + " " + document.getElementById("load").value`); got != "case 1" {
		t.Errorf("the link led to %q", got)
	}
	p.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("#overview circle.dot").dispatchEvent(new Event("click"))`))
	if got := eval[string](p, `location.hash`); got == "#case-1" {
		t.Error("a dot leads nowhere")
	}

	// Keys read a plot, and lines come and go.
	p.do(chromedp.Focus("#power svg"), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	if got := eval[string](p, `document.querySelector("#power .read").textContent`); !strings.Contains(got, "powerd ") || !strings.Contains(got, " W") {
		t.Errorf("keys read %q", got)
	}
	p.do(chromedp.Focus("#lines input"), chromedp.KeyEvent(" "))
	if n := p.drawn("#power polyline.line"); n != len(r.Policies)-1 {
		t.Errorf("%d lines with one taken out", n)
	}
}

// The page fits screens and paper, in light and in dark.
func TestPageFits(t *testing.T) {
	r := newRun(t)
	p := open(t, r)
	seen := []string{}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1200, 400} {
			p.media("", scheme)
			p.do(chromedp.EmulateViewport(width, 900))
			if n := eval[int64](p, `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(document.documentElement.scrollWidth))))`); n > width {
				t.Errorf("the page is %d wide on a screen of %d", n, width)
			}
			// Plots are drawn anew for a width: a unit of theirs is a pixel.
			if n := eval[float64](p, `(s => s.viewBox.baseVal.width / s.getBoundingClientRect().width)(document.querySelector("#power svg"))`); n < 0.97 || n > 1.03 {
				t.Errorf("at %d a plot's unit is %.3f pixels", width, n)
			}
			if *shots != "" {
				png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
				if err == nil {
					err = os.WriteFile(filepath.Join(*shots, fmt.Sprintf("%s-%d.png", scheme, width)), png, 0o644)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
		if back := eval[string](p, `getComputedStyle(document.body).backgroundColor`); slices.Contains(seen, back) {
			t.Errorf("%s has the background of the other", scheme)
		} else {
			seen = append(seen, back)
		}
	}
	p.media("print", "dark")
	if got := eval[string](p, `getComputedStyle(document.body).backgroundColor + getComputedStyle(document.querySelector(".pick")).display`); got != "rgb(255, 255, 255)none" {
		t.Errorf("on paper: %s", got)
	}
}

// Users name loads and machines. Whatever they write is text.
func TestPageHostileNames(t *testing.T) {
	const evil = `</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1"><!--'"&{{.}}`
	r := newRun(t)
	r.Version = evil
	for i := range r.Rows {
		r.Cases[i].Machine.Name, r.Cases[i].Load.Name, r.Cases[i].Load.About = evil, evil, evil
		r.Rows[i].Machine, r.Rows[i].Load = evil, evil
	}
	p := open(t, r)
	if eval[bool](p, `"pwned" in window || document.querySelector("img") !== null || document.scripts.length !== 2`) {
		t.Error("a name was taken for markup")
	}
	for _, what := range []string{`#load option`, `#machine option`, `#table td`, `#table a`} {
		if got := eval[string](p, `document.querySelector(%q).textContent`, what); got != evil {
			t.Errorf("%s is %q", what, got)
		}
	}
	if n := p.drawn("#power polyline"); n == 0 {
		t.Error("nothing is drawn")
	}
}

// Where a run lacks something, the page says so.
func TestPageWithout(t *testing.T) {
	r := newRun(t)
	for i := range r.Rows {
		r.Rows[i].Limit = 0
		r.Cases[i].Machine.Platform = nil
		for k := range r.Rows[i].Results {
			r.Rows[i].Results[k].Samples = nil
			r.Rows[i].Results[k].Latency = nil
		}
	}
	p := open(t, r)
	for figure, want := range map[string]string{
		"overview": "No case has a limit", "curve": "no platform", "power": "no samples", "speed": "no samples",
		"idle": "no samples", "latency": "No container",
	} {
		if got := eval[string](p, `document.querySelector("#%s .plot").textContent`, figure); !strings.Contains(got, want) {
			t.Errorf("%s says %q", figure, got)
		}
	}
	if n := p.drawn("#energy rect.bar"); n == 0 {
		t.Error("no energies are drawn")
	}
	r = newRun(t)
	for i := range r.Cases {
		r.Cases[i].Machine.Spec.Clusters = nil
	}
	p = open(t, r)
	if got := eval[string](p, `document.querySelector("#idle .plot").textContent`); !strings.Contains(got, "no idle states") {
		t.Errorf("idle says %q", got)
	}
	p = open(t, Run{Version: "v", Machine: "sim", Policies: []string{bench.Powerd}})
	if n := p.drawn("svg"); n != 0 {
		t.Errorf("%d plots of nothing", n)
	}
}
