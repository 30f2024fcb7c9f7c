package main

import (
	"bytes"
	"fmt"
	"html"
)

// The plot: for each load the bars of all proxies but the base, whose 1.0 is
// a line. Sizes are in pixels.
const (
	plotWidth  = 860
	plotLeft   = 150 // names of the loads
	plotRight  = 60  // figures that do not fit
	plotTop    = 86
	barHeight  = 11
	rowGap     = 9
	plotBottom = 26
	mostRatio  = 6.0 // longer bars are cut, their figure tells
)

// colours of the proxies, in the order of the report; readable for those who
// do not tell red from green.
var colours = []string{"#0072b2", "#e69f00", "#7f7f7f", "#56b4e9", "#cc79a7"} // read only

// plot draws the ratios to the base as an SVG image.
func (r *report) plot() []byte {
	var others []string
	for _, p := range r.Proxies {
		if p != base {
			others = append(others, p)
		}
	}
	rows := r.withBase()
	rowHeight := len(others)*barHeight + rowGap
	height := plotTop + len(rows)*rowHeight + plotBottom
	x := func(v float64) float64 {
		return plotLeft + min(v, mostRatio)/mostRatio*(plotWidth-plotLeft-plotRight)
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", plotWidth, height, plotWidth, height)
	fmt.Fprintf(&w, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, height)
	fmt.Fprintf(&w, `<text x="12" y="22" font-size="15" font-weight="bold">CPU time per unit, as a multiple of %s's</text>`+"\n", base)
	fmt.Fprintf(&w, `<text x="12" y="40" fill="#555555">Shorter is better. %s, %d rounds. idle: memory per connection.</text>`+"\n", r.Date.UTC().Format("2006-01-02"), r.Rounds)
	at := 12
	for i, p := range others {
		fmt.Fprintf(&w, `<rect x="%d" y="52" width="11" height="11" fill="%s"/><text x="%d" y="62">%s</text>`+"\n", at, colour(i), at+16, html.EscapeString(p))
		at += 36 + 8*len(p)
	}
	for v := 0; v <= mostRatio; v++ {
		stroke, width := "#dddddd", 1.0
		if v == 1 {
			stroke, width = "#222222", 1.5
		}
		fmt.Fprintf(&w, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%.1f"/><text x="%.1f" y="%d" text-anchor="middle" fill="#555555">%d</text>`+"\n",
			x(float64(v)), plotTop-4, x(float64(v)), height-plotBottom, stroke, width, x(float64(v)), height-plotBottom+14, v)
	}
	for i, row := range rows {
		top := plotTop + i*rowHeight
		figure := cpuFigure
		if row.Kind == measureMemory {
			figure = connFigure
		}
		fmt.Fprintf(&w, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-8, top+len(others)*barHeight/2+4, html.EscapeString(row.Load))
		for k, p := range others {
			all := ratios(row.of(p, figure), row.of(base, figure))
			if len(all) == 0 {
				continue
			}
			v := median(all)
			y := top + k*barHeight
			fmt.Fprintf(&w, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="9" fill="#333333" stroke="#ffffff" stroke-width="3" paint-order="stroke">%s</text>`+"\n",
				plotLeft, y, x(max(v, 0))-plotLeft, barHeight-1, colour(k), x(max(v, 0))+3, y+barHeight-2, ratio(v))
		}
	}
	w.WriteString("</svg>\n")
	return w.Bytes()
}

func colour(i int) string { return colours[i%len(colours)] }
