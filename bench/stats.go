package main

import (
	"cmp"
	"math"
	"slices"
)

// quantile returns the q-quantile of sorted values by the nearest rank; the
// zero value of none.
func quantile[T cmp.Ordered](sorted []T, q float64) T {
	if len(sorted) == 0 {
		var none T
		return none
	}
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// median returns the middle of values, the mean of the two middle ones when
// their number is even, and NaN of none. NaNs among them are left out.
func median(values []float64) float64 {
	s := numbers(values)
	if len(s) == 0 {
		return math.NaN()
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// spread returns the smallest and the largest of values, NaN of none.
func spread(values []float64) (least, most float64) {
	s := numbers(values)
	if len(s) == 0 {
		return math.NaN(), math.NaN()
	}
	return s[0], s[len(s)-1]
}

// numbers returns the values that are numbers, sorted.
func numbers(values []float64) []float64 {
	s := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(s)
	return s
}

// ratios divides what was measured in the same round: what disturbed the
// machine in one round disturbed both sides of the division.
func ratios(values, base []float64) []float64 {
	var out []float64
	for i := range min(len(values), len(base)) {
		if base[i] > 0 {
			out = append(out, values[i]/base[i])
		}
	}
	return out
}
