//! The arithmetic of merging models, tensor by tensor.
//! Knows nothing of files, names or what the numbers are for.
//!
//! Models are written θ, what a training added to a base τ = θ - θ₀ (a task vector). Sums are made in f64.

use crate::random;

/// The weighted mean, Σ wᵢθᵢ / Σ wᵢ: a "model soup" (Wortsman et al., arXiv 2203.05482).
pub fn linear(models: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let total: f64 = weights.iter().sum();
    sums(models, weights).map(|sum| (sum / total) as f32).collect()
}

/// The point at `t` on the arc from `a` to `b` (Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985):
/// (sin((1-t)Ω) a + sin(tΩ) b) / sin Ω, where Ω is the angle between them. A straight line where they are nearly
/// parallel, as the arc then has no direction, and where one of them is zero.
pub fn slerp(a: &[f32], b: &[f32], t: f64) -> Vec<f32> {
    // Beyond this cosine the arc and its chord differ by less than f32 can tell of the weights.
    const PARALLEL: f64 = 0.9995;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    let cosine = if norms > 0.0 { (dot(a, b) / norms).clamp(-1.0, 1.0) } else { 1.0 };
    if cosine.abs() > PARALLEL {
        return linear(&[a, b], &[1.0 - t, t]);
    }
    let angle = cosine.acos();
    let (from, to) = (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin());
    sums(&[a, b], &[from, to]).map(|sum| sum as f32).collect()
}

/// θ₀ + λ Σ wᵢτᵢ (Ilharco et al., "Editing models with task arithmetic", arXiv 2212.04089).
pub fn task_arithmetic(base: &[f32], tasks: &[Vec<f32>], weights: &[f64], scale: f64) -> Vec<f32> {
    let tasks: Vec<&[f32]> = tasks.iter().map(Vec::as_slice).collect();
    base.iter().zip(sums(&tasks, weights)).map(|(base, sum)| (f64::from(*base) + scale * sum) as f32).collect()
}

/// What a training added.
pub fn task(model: &[f32], base: &[f32]) -> Vec<f32> {
    model.iter().zip(base).map(|(model, base)| model - base).collect()
}

/// The magnitude from which the `density` largest of all values on are: the first step of TIES.
pub fn threshold(mut magnitudes: Vec<f32>, density: f64) -> f32 {
    let count = ((density * magnitudes.len() as f64).round() as usize).clamp(1, magnitudes.len().max(1));
    let at = magnitudes.len() - count;
    *magnitudes.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Zeroes what is smaller than the threshold.
pub fn trim(task: &mut [f32], threshold: f32) {
    task.iter_mut().filter(|value| value.abs() < threshold).for_each(|value| *value = 0.0);
}

/// TIES after trimming (Yadav et al., arXiv 2306.01708): per number, the sign γ = sgn(Σ wᵢτᵢ) is elected, and
/// the τᵢ of that sign are averaged; θ₀ + λ of that. Says too how many numbers had τ of both signs.
pub fn ties(base: &[f32], tasks: &[Vec<f32>], weights: &[f64], scale: f64) -> (Vec<f32>, usize) {
    let mut conflicts = 0;
    let merged = base.iter().enumerate().map(|(at, base)| {
        let of = || tasks.iter().zip(weights).map(|(task, weight)| (f64::from(task[at]), *weight));
        let elected: f64 = of().map(|(task, weight)| weight * task).sum();
        let has = |sign: f64| of().any(|(task, weight)| weight * task * sign > 0.0);
        conflicts += usize::from(has(1.0) && has(-1.0));
        let (mut sum, mut total) = (0.0, 0.0);
        for (task, weight) in of().filter(|(task, _)| task * elected > 0.0) {
            sum += weight * task;
            total += weight;
        }
        let mean = if total == 0.0 { 0.0 } else { sum / total };
        (f64::from(*base) + scale * mean) as f32
    });
    let merged = merged.collect();
    (merged, conflicts)
}

/// DARE (Yu et al., "Language models are super Mario", arXiv 2311.03099): each number of τ is kept with probability
/// `density` and divided by it, or dropped. Which are kept is a function of the key and the number's place.
pub fn drop_and_rescale(task: &mut [f32], density: f64, key: [u64; 3]) {
    for (at, value) in task.iter_mut().enumerate() {
        let is_kept = f64::from(random::uniform(&[key[0], key[1], key[2], at as u64])) < density;
        *value = if is_kept { (f64::from(*value) / density) as f32 } else { 0.0 };
    }
}

/// Σ wᵢθᵢ, number by number.
fn sums<'a>(models: &'a [&'a [f32]], weights: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    let of = move |at: usize| models.iter().zip(weights).map(|(model, weight)| weight * f64::from(model[at])).sum();
    (0..models.first().map_or(0, |model| model.len())).map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soup_is_the_weighted_mean() {
        assert_eq!(linear(&[&[1.0, 2.0], &[3.0, 6.0]], &[1.0, 1.0]), [2.0, 4.0]);
        assert_eq!(linear(&[&[1.0, 2.0], &[3.0, 6.0]], &[3.0, 1.0]), [1.5, 3.0]);
    }

    #[test]
    fn half_of_a_right_angle_keeps_the_length() {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(slerp(&[1.0, 0.0], &[0.0, 1.0], 0.5), [half, half]);
        // A third of the way: 30 degrees.
        let third = slerp(&[2.0, 0.0], &[0.0, 2.0], 1.0 / 3.0);
        assert!((third[0] - 3.0_f32.sqrt()).abs() < 1e-6 && (third[1] - 1.0).abs() < 1e-6, "{third:?}");
        for (t, end) in [(0.0, [1.0, 0.0]), (1.0, [0.0, 1.0])] {
            let at = slerp(&[1.0, 0.0], &[0.0, 1.0], t);
            assert!(at.iter().zip(end).all(|(a, b)| (a - b).abs() < 1e-7), "{at:?}");
        }
    }

    #[test]
    fn parallel_and_empty_ones_lie_on_a_line() {
        assert_eq!(slerp(&[1.0, 1.0], &[3.0, 3.0], 0.25), [1.5, 1.5]);
        assert_eq!(slerp(&[1.0, 0.0], &[-1.0, 0.0], 0.5), [0.0, 0.0]);
        assert_eq!(slerp(&[0.0, 0.0], &[2.0, 4.0], 0.5), [1.0, 2.0]);
    }

    #[test]
    fn task_vectors_are_added_to_the_base() {
        let base = [1.0, 1.0, 1.0];
        let tasks = [task(&[2.0, 1.0, 0.0], &base), task(&[1.0, 3.0, 3.0], &base)];
        // Task vectors [1, 0, -1] and [0, 2, 2].
        assert_eq!(task_arithmetic(&base, &tasks, &[1.0, 1.0], 1.0), [2.0, 3.0, 2.0]);
        assert_eq!(task_arithmetic(&base, &tasks, &[1.0, 0.5], 2.0), [3.0, 3.0, 1.0]);
        // Taken away instead of added: forgetting, as the paper has it.
        assert_eq!(task_arithmetic(&base, &tasks[..1], &[1.0], -1.0), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn the_largest_share_survives_trimming() {
        let mut task = vec![0.1, -5.0, 3.0, 0.0, -0.2, 4.0, 0.3, -2.0, 0.0, 1.0];
        let threshold = threshold(task.iter().map(|value: &f32| value.abs()).collect(), 0.3);
        assert_eq!(threshold, 3.0);
        trim(&mut task, threshold);
        assert_eq!(task, [0.0, -5.0, 3.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn signs_are_elected_by_mass_and_the_others_left_out() {
        let tasks = [vec![3.0, 1.0, 0.0, 2.0, 1.0], vec![-1.0, 2.0, 0.0, 0.0, -1.0], vec![-1.0, 0.0, 0.0, 4.0, 0.0]];
        // Sums: 1, 3, 0, 6, 0. Of their sign: 3 | 1 and 2 | none | 2 and 4 | none, as none is elected.
        let (merged, conflicts) = ties(&[10.0; 5], &tasks, &[1.0; 3], 1.0);
        assert_eq!((&merged[..], conflicts), (&[13.0, 11.5, 10.0, 13.0, 10.0][..], 2));
        // The second weighs four times: the first sum is 3 - 4 - 1 = -2, of which -1 and -1 are averaged.
        let (merged, _) = ties(&[10.0; 5], &tasks, &[1.0, 4.0, 1.0], 0.5);
        assert_eq!(merged, [9.5, 10.9, 10.0, 11.5, 9.5]);
    }

    #[test]
    fn what_is_kept_is_rescaled_so_that_the_mean_stays() {
        let mut dropped = vec![1.0; 20_000];
        drop_and_rescale(&mut dropped, 0.25, [7, 0, 1]);
        assert!(dropped.iter().all(|value| *value == 0.0 || *value == 4.0));
        let mean = dropped.iter().sum::<f32>() / 20_000.0;
        // The mean's deviation is sqrt(3 / 20000) = 0.012.
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        let mut again = vec![1.0; 100];
        drop_and_rescale(&mut again, 0.25, [7, 0, 1]);
        assert_eq!(again, dropped[..100], "a number's lot does not depend on how many there are");
        drop_and_rescale(&mut again, 1.0, [7, 0, 1]);
        assert_eq!(again, dropped[..100]);
    }
}
