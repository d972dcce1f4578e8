package influxtest

import (
	"math/rand/v2"
	"time"
)

// EdgeTimes returns times of dumps that are hard to cut into time ranges: with gaps of weeks, at the borders of likely ranges
// and a nanosecond beside them, in the future, and at 1970.
func EdgeTimes(rng *rand.Rand, now time.Time) (times []time.Time) {
	const day = 24 * time.Hour
	for range 250 {
		age := time.Duration(rng.Int64N(int64(150 * day)))
		if age > 30*day && age < 65*day {
			age /= 100
		}
		at := now.Add(-age)
		if rng.IntN(3) == 0 {
			at = at.Truncate(10 * time.Minute)
		}
		times = append(times, at)
	}
	for age := day; age < 150*day; age *= 2 {
		for _, beside := range []time.Duration{-1, 0, 1} {
			times = append(times, now.Add(-age+beside), now.Add(-age).Truncate(day).Add(beside))
		}
	}
	return append(times, now, now.Add(1), now.Add(time.Hour), now.Add(50*day), time.Unix(0, 0), time.Unix(0, -1))
}
