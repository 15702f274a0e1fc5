//! Arithmetic on one row, written so that it vectorises: each function is inlined into the caller's loop, which is
//! compiled for the instruction set found at run time.

/// Runs a loop that was compiled for each instruction set by the best one that this processor has.
///
/// `pulp` calls a closure as one that runs once. Most that are written here could run often, and then that call is a
/// function of its own: left outside when it is large, compiled for the oldest processor, with a library call for every
/// fused product. Called as what they are, closures marked `inline(always)` become part of the function for the set.
pub(super) struct Arch(pulp::Arch);

impl Arch {
    #[inline]
    pub(super) fn new() -> Self {
        Self(pulp::Arch::new())
    }

    #[inline(always)]
    pub(super) fn dispatch<R>(self, work: impl FnMut() -> R) -> R {
        self.0.dispatch(Work(work))
    }
}

struct Work<F>(F);

impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Work<F> {
    type Output = R;

    #[inline(always)]
    fn call(mut self) -> R {
        (self.0)()
    }
}

/// `e^x` to 2 ulp (Cephes' expf: Cody-Waite reduction, degree-5 polynomial); vectorises, unlike libm's.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest whole number
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let rest = whole.mul_add(2.121_944_4e-4, whole.mul_add(-0.693_359_4, x));
    let poly = 1.987_569_1e-4_f32
        .mul_add(rest, 1.398_199_9e-3)
        .mul_add(rest, 8.333_452e-3)
        .mul_add(rest, 4.166_579_6e-2)
        .mul_add(rest, 1.666_666_5e-1)
        .mul_add(rest, 0.5);
    let value = poly.mul_add(rest * rest, rest) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    f32::from_bits(value.to_bits().wrapping_add(exponent << 23))
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sums in 32 lanes, so that the order is fixed and the loop vectorises. `term` has to be inlined: a closure of its
/// own is compiled for the oldest processor, and calls a library for every fused multiplication.
#[inline(always)]
pub(super) fn lanes(length: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut partial = [0.0_f32; 32];
    let whole = length / 32 * 32;
    for start in (0..whole).step_by(32) {
        for (lane, sum) in partial.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let mut total = 0.0;
    for sum in partial {
        total += sum;
    }
    for i in whole..length {
        total += term(i);
    }
    total
}

/// As [`lanes`], two sums at once.
#[inline(always)]
pub(super) fn lanes_of_two(length: usize, terms: impl Fn(usize) -> (f32, f32)) -> (f32, f32) {
    let mut partial = ([0.0_f32; 32], [0.0_f32; 32]);
    let whole = length / 32 * 32;
    for start in (0..whole).step_by(32) {
        for lane in 0..32 {
            let (first, second) = terms(start + lane);
            partial.0[lane] += first;
            partial.1[lane] += second;
        }
    }
    let mut total = (0.0, 0.0);
    for lane in 0..32 {
        total = (total.0 + partial.0[lane], total.1 + partial.1[lane]);
    }
    for i in whole..length {
        let (first, second) = terms(i);
        total = (total.0 + first, total.1 + second);
    }
    total
}

#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    lanes(
        length,
        #[inline(always)]
        |i| a[i] * b[i],
    )
}

#[inline(always)]
pub(super) fn maximum(values: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; 32];
    let chunks = values.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, value) in partial.iter_mut().zip(chunk) {
            *most = most.max(*value);
        }
    }
    partial.iter().chain(rest).fold(f32::NEG_INFINITY, |most, value| most.max(*value))
}

/// Softmax of the first `seen` scores times `scale`, zero beyond.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], seen: usize, scale: f32) {
    let (visible, hidden) = scores.split_at_mut(seen);
    let most = maximum(visible);
    for score in visible.iter_mut() {
        *score = exp((*score - most) * scale);
    }
    let share = 1.0
        / lanes(
            seen,
            #[inline(always)]
            |i| visible[i],
        );
    for score in visible.iter_mut() {
        *score *= share;
    }
    hidden.fill(0.0);
}

/// `log(sum(exp(row / temperature)))`.
#[inline(always)]
pub(super) fn log_sum_exp(row: &[f32], temperature: f32) -> f32 {
    let most = maximum(row) / temperature;
    let total = lanes(
        row.len(),
        #[inline(always)]
        |i| exp(row[i] / temperature - most),
    );
    most + total.ln()
}
