//! How sure a mean is. Numbers in, numbers out.

use serde::Serialize;

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Prompts that it is the mean of.
    pub count: usize,
}

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

impl Estimate {
    /// Of values that are all 0 or 1: Wilson's score interval (JASA 22, 1927).
    pub fn of_binary(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let centre = (mean + Z * Z / (2.0 * count)) / (1.0 + Z * Z / count);
        let half = Z / (1.0 + Z * Z / count) * (mean * (1.0 - mean) / count + Z * Z / (4.0 * count * count)).sqrt();
        Self { mean, low: (centre - half).max(0.0), high: (centre + half).min(1.0), count: values.len() }
    }

    /// Of values between 0 and 1: the normal interval of their mean.
    pub fn of_shares(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let half = Z * (variance / count).sqrt();
        Self { mean, low: (mean - half).max(0.0), high: (mean + half).min(1.0), count: values.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilsons_interval_is_the_published_one() {
        // Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
        let of = |hits: usize, count: usize| {
            let values: Vec<f64> = (0..count).map(|i| if i < hits { 1.0 } else { 0.0 }).collect();
            Estimate::of_binary(&values)
        };
        let (many, none) = (of(81, 263), of(0, 20));
        assert!((many.low - 0.2553).abs() < 5e-5 && (many.high - 0.3662).abs() < 5e-5, "{many:?}");
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 5e-5, "{none:?}");
    }

    #[test]
    fn the_normal_interval_is_1_96_standard_errors_wide() {
        // Mean 0.5, sample variance (4 * 0.0625) / 3.
        let estimate = Estimate::of_shares(&[0.25, 0.75, 0.25, 0.75]);
        let half = 1.959_964 * (0.25_f64 / 3.0 / 4.0).sqrt();
        assert!((estimate.mean - 0.5).abs() < 1e-12 && (estimate.high - 0.5 - half).abs() < 1e-6);
    }
}
