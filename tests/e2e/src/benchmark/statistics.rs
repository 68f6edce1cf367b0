// SPDX-License-Identifier: GPL-2.0

//! What a series of ratios says: its median, and a 95 % interval.
//!
//! Ratios are averaged as logarithms, so that 2 and 1/2 cancel out. The interval is Student's, for the mean of
//! the logarithms: with few rounds it is wide, as it should be.

use serde::Serialize;

/// Quantiles 0.975 of Student's t distribution for 1 to 30 degrees of freedom.
const STUDENT_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// The same for more.
const NORMAL_975: f64 = 1.960;

/// A ratio as measured in several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the rounds.
    pub median: f64,
    /// Lower end of the 95 % interval; `None` with a single round.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

impl Ratio {
    /// Of the ratios of all rounds; `None` if there are none, or one is not a positive number.
    pub fn of(ratios: &[f64]) -> Option<Ratio> {
        if ratios.iter().any(|r| !r.is_finite() || *r <= 0.0) {
            return None;
        }
        let median = median(ratios)?;
        let logarithms: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
        let interval = student_interval(&logarithms);
        Some(Ratio {
            median,
            low: interval.map(|(low, _)| low.exp()),
            high: interval.map(|(_, high)| high.exp()),
        })
    }

    /// All of the interval lies below one.
    pub fn is_below_one(&self) -> bool {
        self.high.is_some_and(|high| high < 1.0)
    }
}

/// The middle value, or the mean of the two middle ones; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}

/// The geometric mean; `None` without values.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    mean(&values.iter().map(|v| v.ln()).collect::<Vec<_>>()).map(f64::exp)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The interval that holds the mean with 95 % confidence; `None` with fewer than two values.
fn student_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mean = mean(values)?;
    let freedom = values.len().checked_sub(1).filter(|f| *f > 0)?;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let error = (squares / freedom as f64 / values.len() as f64).sqrt();
    let t = STUDENT_975.get(freedom - 1).copied().unwrap_or(NORMAL_975);
    Some((mean - t * error, mean + t * error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3 * b.abs().max(1.0)
    }

    #[test]
    fn medians_of_odd_even_and_no_series() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn opposite_ratios_cancel_out() {
        assert!(close(geometric_mean(&[2.0, 0.5]).expect("mean"), 1.0));
        assert!(close(geometric_mean(&[4.0, 9.0]).expect("mean"), 6.0));
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn the_interval_is_student_s() {
        // Mean 3, standard error 0.7071, t(4) = 2.776.
        let (low, high) = student_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("interval");
        assert!(
            close(low, 3.0 - 1.963) && close(high, 3.0 + 1.963),
            "{low} {high}"
        );
        assert_eq!(student_interval(&[1.0]), None);
    }

    #[test]
    fn a_constant_ratio_has_a_narrow_interval_and_a_scattered_one_a_wide() {
        let constant = Ratio::of(&[0.9; 5]).expect("ratio");
        assert!(close(constant.median, 0.9));
        assert!(constant.is_below_one());
        let scattered = Ratio::of(&[0.5, 0.9, 1.4, 0.8, 1.9]).expect("ratio");
        assert!(scattered.low.expect("low") < 0.7 && scattered.high.expect("high") > 1.4);
        assert!(!scattered.is_below_one());
        assert!(!Ratio::of(&[0.5]).expect("single").is_below_one());
    }

    #[test]
    fn what_is_no_ratio_gives_none() {
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::of(&[1.0, wrong]), None);
        }
        assert_eq!(Ratio::of(&[]), None);
    }
}
