package calibrate

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"
)

// A fit is a solved linear model y = A x, each row weighted by its error.
//
// Everything is asked of it as a combination of parameters, L x. The singular value
// decomposition of A tells whether the rows can tell it: not if it has a part in the
// null space, along which x can move and no row changes.
//
// See Golub and Van Loan, Matrix Computations, 5.5; Press et al., Numerical Recipes, 15.4.
type fit struct {
	params []Param
	at     map[Param]int
	x      []float64
	size   []float64  // of each column; the rest is in columns of size 1
	cov    *mat.Dense // of x times size
	null   *mat.Dense // its columns span the null space; nil if there is none
	// Misfit is the square root of chi squared per degree of freedom: 1 if the model
	// misses by what the rows' errors say. Above 1 the covariance is widened by it.
	misfit float64
	// miss is the root mean square of the relative residuals.
	miss float64
}

// rankTolerance is the relative size under which a singular value is taken for 0.
const rankTolerance = 1e-7

// solve fits parameters, none of them negative, to rows.
func solve(rows [][]Term, y, sigma []float64, params []Param) *fit {
	f := &fit{params: params, at: map[Param]int{}, size: make([]float64, len(params)), misfit: 1}
	for i, p := range params {
		f.at[p] = i
	}
	n, p := len(rows), len(params)
	f.x = make([]float64, p)
	if n == 0 || p == 0 {
		return f
	}
	a := mat.NewDense(n, p, nil)
	b := mat.NewVecDense(n, nil)
	for i, row := range rows {
		for _, t := range row {
			if j, ok := f.at[t.Param]; ok {
				a.Set(i, j, a.At(i, j)+t.X/sigma[i])
			}
		}
		b.SetVec(i, y[i]/sigma[i])
	}
	for j := range p {
		f.size[j] = cmp.Or(mat.Norm(a.ColView(j), 2), 1)
		for i := range n {
			a.Set(i, j, a.At(i, j)/f.size[j])
		}
	}
	x := nonNegative(a, b)

	var svd mat.SVD
	if !svd.Factorize(a, mat.SVDFullV) {
		return f // of a matrix of finite numbers it does not fail
	}
	values := svd.Values(nil)
	var v mat.Dense
	svd.VTo(&v)
	rank := 0
	for rank < len(values) && values[rank] > rankTolerance*values[0] {
		rank++
	}
	f.cov = mat.NewDense(p, p, nil)
	for k := range rank {
		col := v.ColView(k)
		var outer mat.Dense
		outer.Outer(1/(values[k]*values[k]), col, col)
		f.cov.Add(f.cov, &outer)
	}
	if rank < p {
		f.null = mat.DenseCopyOf(v.Slice(0, p, rank, p))
	}
	var r mat.VecDense
	r.MulVec(a, x)
	r.SubVec(b, &r)
	for i := range n {
		rel := r.AtVec(i) * sigma[i] / math.Max(math.Abs(y[i]), 1e-9)
		f.miss += rel * rel / float64(n)
	}
	f.miss = math.Sqrt(f.miss)
	if n > rank {
		f.misfit = mat.Norm(&r, 2) / math.Sqrt(float64(n-rank))
		if f.misfit > 1 {
			f.cov.Scale(f.misfit*f.misfit, f.cov)
		}
	}
	for j := range p {
		f.x[j] = x.AtVec(j) / f.size[j]
	}
	return f
}

// huber is from how many standard errors on a row weighs less.
const huber = 1.5

// robust solves with less weight for rows that the others contradict, for something else
// may have run or been in the way while they were measured.
//
// See Huber, Robust Estimation of a Location Parameter, 1964 (the M-estimator that bears
// his name), by iterated weights.
func robust(rows [][]Term, y, sigma []float64, params []Param) *fit {
	f := solve(rows, y, sigma, params)
	for range 10 {
		// What is usual is told by the median, which the unusual do not move.
		off := make([]float64, len(rows))
		for i, row := range rows {
			off[i] = math.Abs(y[i]-f.predict(row)) / sigma[i]
		}
		sorted := slices.Sorted(slices.Values(off))
		if len(sorted) == 0 {
			break
		}
		usual := math.Max(1, sorted[len(sorted)/2]/0.6745)
		weighed := slices.Clone(sigma)
		for i := range weighed {
			weighed[i] *= math.Sqrt(math.Max(1, off[i]/usual/huber))
		}
		f = solve(rows, y, weighed, params)
	}
	return f
}

// predict is what the model makes of a row.
func (f *fit) predict(row []Term) float64 {
	sum := 0.0
	for _, t := range row {
		if j, ok := f.at[t.Param]; ok {
			sum += t.X * f.x[j]
		}
	}
	return sum
}

// combination is a weighted sum of parameters.
type combination map[Param]float64

// estimate returns the value of a combination and its standard error; blame names what
// the rows cannot tell it from, nil where they can.
func (f *fit) estimate(l combination) (value, err float64, blame []Param) {
	scaled := mat.NewVecDense(max(len(f.params), 1), nil)
	for p, w := range l {
		j, ok := f.at[p]
		if !ok {
			return 0, 0, []Param{p}
		}
		value += w * f.x[j]
		scaled.SetVec(j, w/f.size[j])
	}
	if f.cov == nil {
		return value, math.Inf(1), []Param{}
	}
	if f.null != nil {
		var part, move mat.VecDense
		part.MulVec(f.null.T(), scaled)
		if mat.Norm(&part, 2) > 1e-5*mat.Norm(scaled, 2) {
			move.MulVec(f.null, &part)
			blame = []Param{}
			for j, p := range f.params {
				if _, own := l[p]; !own && math.Abs(move.AtVec(j)) > 1e-3*mat.Norm(&move, 2) {
					blame = append(blame, p)
				}
			}
			return value, math.Inf(1), blame
		}
	}
	return value, math.Sqrt(math.Max(0, mat.Inner(scaled, f.cov, scaled))), nil
}

// covariance of two combinations that the rows can tell.
func (f *fit) covariance(l, o combination) float64 {
	scaled := func(c combination) *mat.VecDense {
		v := mat.NewVecDense(len(f.params), nil)
		for p, w := range c {
			v.SetVec(f.at[p], w/f.size[f.at[p]])
		}
		return v
	}
	return mat.Inner(scaled(l), f.cov, scaled(o))
}

// nonNegative returns the x >= 0 of least |A x - b|.
//
// See Lawson and Hanson, Solving Least Squares Problems, 23.3 (NNLS).
func nonNegative(a *mat.Dense, b *mat.VecDense) *mat.VecDense {
	_, p := a.Dims()
	x := mat.NewVecDense(p, nil)
	free := make([]bool, p)
	refused := make([]bool, p)
	scale := mat.Norm(b, 2)
	for range 10 * p {
		var r, gradient mat.VecDense
		r.MulVec(a, x)
		r.SubVec(b, &r)
		gradient.MulVec(a.T(), &r)
		best := -1
		for j := range p {
			if !free[j] && !refused[j] && gradient.AtVec(j) > 1e-10*scale && (best < 0 || gradient.AtVec(j) > gradient.AtVec(best)) {
				best = j
			}
		}
		if best < 0 {
			break
		}
		free[best] = true
		for {
			s := restricted(a, b, free)
			if s.AtVec(best) <= 0 && x.AtVec(best) == 0 { // by rounding, or tied to those that are free
				free[best], refused[best] = false, true
				break
			}
			step := 1.0
			for j := range p {
				if free[j] && s.AtVec(j) <= 0 {
					step = math.Min(step, x.AtVec(j)/(x.AtVec(j)-s.AtVec(j)))
				}
			}
			for j := range p {
				x.SetVec(j, x.AtVec(j)+step*(s.AtVec(j)-x.AtVec(j)))
				if free[j] && s.AtVec(j) <= 0 && x.AtVec(j) <= 1e-14*mat.Norm(x, math.Inf(1)) {
					x.SetVec(j, 0)
					free[j] = false
				}
			}
			if step == 1 {
				clear(refused)
				break
			}
		}
	}
	return x
}

// restricted is the least-squares solution in the free columns; of several the shortest.
func restricted(a *mat.Dense, b *mat.VecDense, free []bool) *mat.VecDense {
	n, p := a.Dims()
	var cols []int
	for j := range p {
		if free[j] {
			cols = append(cols, j)
		}
	}
	sub := mat.NewDense(n, len(cols), nil)
	for k, j := range cols {
		sub.SetCol(k, mat.Col(nil, j, a))
	}
	x := mat.NewVecDense(p, nil)
	var svd mat.SVD
	if !svd.Factorize(sub, mat.SVDThin) {
		return x
	}
	var s mat.Dense
	svd.SolveTo(&s, b, svd.Rank(rankTolerance))
	for k, j := range cols {
		x.SetVec(j, s.At(k, 0))
	}
	return x
}

// line fits y = a + b x by weighted least squares, and returns the covariance of a and b.
func line(x, y, sigma []float64) (a, b float64, cov [2][2]float64, err error) {
	var s, sx, sy, sxx, sxy float64
	for i := range x {
		w := 1 / (sigma[i] * sigma[i])
		s, sx, sy, sxx, sxy = s+w, sx+w*x[i], sy+w*y[i], sxx+w*x[i]*x[i], sxy+w*x[i]*y[i]
	}
	d := s*sxx - sx*sx
	if len(x) < 2 || !(d > 1e-12*s*sxx) {
		return 0, 0, cov, fmt.Errorf("%d points do not make a line", len(x))
	}
	a, b = (sxx*sy-sx*sxy)/d, (s*sxy-sx*sy)/d
	chi := 0.0
	for i := range x {
		r := (y[i] - a - b*x[i]) / sigma[i]
		chi += r * r
	}
	widen := 1.0
	if len(x) > 2 {
		widen = math.Max(1, chi/float64(len(x)-2))
	}
	return a, b, [2][2]float64{{sxx / d * widen, -sx / d * widen}, {-sx / d * widen, s / d * widen}}, nil
}

// excited are the parameters that some row has enough of to be told, in order.
func excited(rows [][]Term) []Param {
	most := map[Param]float64{}
	for _, row := range rows {
		for _, t := range row {
			most[t.Param] = math.Max(most[t.Param], t.X)
		}
	}
	var out []Param
	for p, x := range most {
		if x >= leastExcited {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, compareParams)
	return out
}

// leastExcited is how much of a core's or a cluster's time must go to something in some
// row. Less is what happens by the way.
const leastExcited = 0.2
