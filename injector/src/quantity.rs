//! Kubernetes quantities, as far as comparing two of them needs.
//!
//! In: text such as `100m`, `1.5Gi`, `2e3`. Out: a number. Never: a negative one, or text that the API server refuses.

/// The value of a quantity; none if it is not one, is negative, or is too large to be meant.
#[must_use]
pub fn parse(text: &str) -> Option<f64> {
    if text.len() > 32 {
        return None;
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if !number.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            if !(-18..=18).contains(&power) {
                return None;
            }
            10f64.powi(power)
        }
    };
    let value: f64 = number.parse().ok()?;
    let value = value * scale;
    (value.is_finite() && value < 1e19).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("0", 0.0),
            ("2", 2.0),
            ("100m", 0.1),
            ("1.5", 1.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("128Mi", 134_217_728.0),
            ("1e3", 1000.0),
            ("1E3", 1000.0),
            ("1E", 1e18),
            ("2e-3", 0.002),
        ] {
            assert!(
                (parse(text).unwrap() - value).abs() < 1e-9 * value.max(1.0),
                "{text}"
            );
        }
        for text in [
            "", "m", ".", "-1", "+1", "1 ", " 1", "1mi", "1e", "1e99", "1.2.3", "NaN", "inf", "1Zi", "0x10",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
