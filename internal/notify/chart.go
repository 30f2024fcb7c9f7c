package notify

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"time"
)

// lastDay returns the hours of the last day that ends with the hour of now.
func (t *tally) lastDay(now time.Time) (hours [24]int) {
	for i, n := range t.Hours {
		ago := int(now.Truncate(time.Hour).Sub(t.Start.Add(time.Duration(i)*time.Hour)) / time.Hour)
		if ago >= 0 && ago < 24 {
			hours[23-ago] += n
		}
	}
	return hours
}

// The chart's measures, in pixels.
const (
	barWidth    = 18
	barGap      = 6
	chartMargin = 12
	chartHeight = 140
	digitHeight = 7
)

// chart draws a bar for each hour, the last one at the right, with the size of
// the highest written above it, as a PNG of a few kilobytes. It looks right on
// a dark page and on a light one.
func chart(hours [24]int) []byte {
	width := 2*chartMargin + len(hours)*(barWidth+barGap) - barGap
	img := image.NewPaletted(image.Rect(0, 0, width, chartHeight), color.Palette{
		color.RGBA{0x2b, 0x2d, 0x31, 0xff}, // the page
		color.RGBA{0x4e, 0x50, 0x58, 0xff}, // the line below
		color.RGBA{0x58, 0x65, 0xf2, 0xff}, // a bar
		color.RGBA{0xed, 0x42, 0x45, 0xff}, // the highest one
		color.RGBA{0xdb, 0xde, 0xe1, 0xff}, // figures
	})
	fillRect := func(r image.Rectangle, c int) {
		draw.Draw(img, r, image.NewUniform(img.Palette[c]), image.Point{}, draw.Src)
	}
	most, at := 0, 0
	for i, n := range hours {
		if n > most {
			most, at = n, i
		}
	}
	base := chartHeight - chartMargin
	room := base - chartMargin - 2*digitHeight
	for i, n := range hours {
		x := chartMargin + i*(barWidth+barGap)
		high := 0
		if most > 0 {
			high = int(int64(n) * int64(room) / int64(most))
		}
		if n > 0 {
			high = max(high, 2)
		}
		c := 2
		if i == at {
			c = 3
		}
		fillRect(image.Rect(x, base-high, x+barWidth, base), c)
		if i == at && most > 0 {
			text := grouped(most, ",")
			left := min(max(x+barWidth/2-textWidth(text)/2, chartMargin), width-chartMargin-textWidth(text))
			drawFigures(img, left, base-high-digitHeight*2-2, text, 4)
		}
	}
	fillRect(image.Rect(chartMargin, base, width-chartMargin, base+1), 1)
	for i := 0; i < len(hours); i += 6 { // a mark at each six hours
		x := chartMargin + i*(barWidth+barGap) + barWidth/2
		fillRect(image.Rect(x, base+1, x+1, base+5), 1)
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		return nil // a buffer takes everything; without a picture the words are still there
	}
	return out.Bytes()
}

// glyph returns the five columns of a sign, a bit for each of its seven rows
// from the top.
func glyph(r rune) [5]uint8 {
	switch r {
	case '0':
		return [5]uint8{0x3e, 0x51, 0x49, 0x45, 0x3e}
	case '1':
		return [5]uint8{0x00, 0x42, 0x7f, 0x40, 0x00}
	case '2':
		return [5]uint8{0x42, 0x61, 0x51, 0x49, 0x46}
	case '3':
		return [5]uint8{0x21, 0x41, 0x45, 0x4b, 0x31}
	case '4':
		return [5]uint8{0x18, 0x14, 0x12, 0x7f, 0x10}
	case '5':
		return [5]uint8{0x27, 0x45, 0x45, 0x45, 0x39}
	case '6':
		return [5]uint8{0x3c, 0x4a, 0x49, 0x49, 0x30}
	case '7':
		return [5]uint8{0x01, 0x71, 0x09, 0x05, 0x03}
	case '8':
		return [5]uint8{0x36, 0x49, 0x49, 0x49, 0x36}
	case '9':
		return [5]uint8{0x06, 0x49, 0x49, 0x29, 0x1e}
	case ',':
		return [5]uint8{0x00, 0x50, 0x30, 0x00, 0x00}
	}
	return [5]uint8{}
}

// Figures are drawn at twice their size.
func textWidth(s string) int { return len(s)*12 - 2 }

func drawFigures(img *image.Paletted, x, y int, s string, c uint8) {
	for _, r := range s {
		for col, bits := range glyph(r) {
			for row := range 7 {
				if bits>>row&1 == 0 {
					continue
				}
				for d := range 4 {
					img.SetColorIndex(x+2*col+d%2, y+2*row+d/2, c)
				}
			}
		}
		x += 12
	}
}
