package page

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestStyle_contrast: every colour of text has the contrast of WCAG AA, 4.5 to 1, on both
// backgrounds.
func TestStyle_contrast(t *testing.T) {
	colours := regexp.MustCompile(`--(\w+): #([0-9a-f]{6})`)
	themes := strings.SplitN(pageCSS, "@media", 2)
	for i, theme := range []string{"light", "dark"} {
		luminances := map[string]float64{}
		for _, m := range colours.FindAllStringSubmatch(strings.SplitN(themes[i], "\n", 2)[0], -1) {
			luminances[m[1]] = luminance(t, m[2])
		}
		for _, background := range []string{"bg", "card"} {
			for _, text := range []string{"fg", "muted", "link", "bad", "good"} {
				bright, dim := max(luminances[text], luminances[background]), min(luminances[text], luminances[background])
				if ratio := (bright + 0.05) / (dim + 0.05); ratio < 4.5 || luminances[text] == 0 {
					t.Errorf("%s: the contrast of %s on %s is %.1f to 1", theme, text, background, ratio)
				}
			}
		}
	}
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
