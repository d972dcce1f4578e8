package influxtest

import (
	"math"
	"slices"
	"testing"
)

func TestPoint_Line(t *testing.T) {
	for _, tc := range []struct {
		name  string
		point Point
		want  string
	}{
		{"sorted", Point{"m", tags{"b": "2", "a": "1"}, fields{"y": 2, "x": int64(1)}, 7}, `m,a=1,b=2 x=1i,y=2i 7`},
		{"no tags", Point{"m", nil, fields{"x": true}, -1}, `m x=true -1`},
		{"empty tag is no tag", Point{"m", tags{"a": "", "b": "1"}, fields{"x": false}, 0}, `m,b=1 x=false 0`},
		{"measurement", Point{`a b,c=d`, nil, fields{"x": 1}, 0}, `a\ b\,c=d x=1i 0`},
		{"tags", Point{"m", tags{"k =,": "v =,"}, fields{"x": 1}, 0}, `m,k\ \=\,=v\ \=\, x=1i 0`},
		{"backslash in tag", Point{"m", tags{"a": `l\w`, "b": `\\host,w`}, fields{"x": 1}, 0}, `m,a=l\w,b=\\host\,w x=1i 0`},
		{"field key", Point{"m", nil, fields{"x =,": 1}, 0}, `m x\ \=\,=1i 0`},
		{"string", Point{"m", nil, fields{"x": `a "b" \ c, d=é`}, 0}, `m x="a \"b\" \\ c, d=é" 0`},
		{"empty string", Point{"m", nil, fields{"x": ""}, 0}, `m x="" 0`},
		{"integers", Point{"m", nil, fields{"x": int64(math.MaxInt64), "y": int64(math.MinInt64)}, 0},
			`m x=9223372036854775807i,y=-9223372036854775808i 0`},
		{"floats", Point{"m", nil, fields{"a": 10.0, "b": 0.1, "c": 1e300, "d": 1e-9, "e": 1e20}, 0},
			`m a=10,b=0.1,c=1e+300,d=1e-09,e=100000000000000000000 0`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.point.Line(); got != tc.want {
				t.Errorf("want %s\n got %s", tc.want, got)
			}
		})
	}
}

func TestPoint_Line_panics(t *testing.T) {
	for name, p := range map[string]Point{
		"no fields":          {"m", nil, nil, 0},
		"no measurement":     {"", nil, fields{"x": 1}, 0},
		"comment":            {"#m", nil, fields{"x": 1}, 0},
		"newline":            {"m", tags{"a": "x\ny"}, fields{"x": 1}, 0},
		"trailing backslash": {"m", tags{"a": `x\`}, fields{"x": 1}, 0},
		"backslash, comma":   {"m", tags{"a": `x\,y`}, fields{"x": 1}, 0},
		"type":               {"m", nil, fields{"x": []int{1}}, 0},
		"NaN":                {"m", nil, fields{"x": math.NaN()}, 0},
		"infinite":           {"m", nil, fields{"x": math.Inf(-1)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			var h History
			h.Add(p)
		})
	}
}

func TestHistory_merges(t *testing.T) {
	var h History
	h.Add(
		Point{"m", tags{"a": "1", "b": ""}, fields{"x": 1, "z": 1}, 5},
		Point{"m", tags{"a": "1"}, fields{"y": 2, "x": 3}, 5},
		Point{"m", tags{"a": "2"}, fields{"x": 4}, 5},
		Point{"m", tags{"a": "1"}, fields{"x": 6}, 4},
		Point{"n", tags{"a": "1"}, fields{"x": 7}, 5},
	)
	want := []string{"m,a=1 x=6i 4", "m,a=1 x=3i,y=2i,z=1i 5", "m,a=2 x=4i 5", "n,a=1 x=7i 5"}
	if got := h.Lines(); !slices.Equal(got, want) {
		t.Errorf("want %q\n got %q", want, got)
	}

	h.Delete("m", 4, 5)
	h.Add(Point{"m", tags{"a": "2"}, fields{"w": 8}, 5}, Point{"m", tags{"a": "1"}, fields{"v": 9}, 4})
	want = []string{"m,a=1 v=9i 4", "m,a=1 x=3i,y=2i,z=1i 5", "m,a=2 w=8i,x=4i 5", "n,a=1 x=7i 5"}
	if got := h.Lines(); !slices.Equal(got, want) {
		t.Errorf("after Delete: want %q\n got %q", want, got)
	}
}
