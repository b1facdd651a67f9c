//! Decimal numbers with up to nine digits behind the point, as whole numbers of 10^-9: sums are exact, and the same
//! in whatever order lines arrive. Exponents, infinities and NaN are no numbers here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Digits behind the point.
const SCALE: usize = 9;
const ONE: i128 = 1_000_000_000;

/// A number, in units of 10^-9.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Decimal(pub i128);

impl Decimal {
    /// Reads `text` (spaces around it are fine); `None` if it is no such number.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (minus, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let point = memchr::memchr(b'.', digits);
        let (whole, part) = match point {
            Some(at) => (&digits[..at], &digits[at + 1..]),
            None => (digits, &[][..]),
        };
        if part.len() > SCALE || (whole.is_empty() && part.is_empty()) {
            return None;
        }
        // All 28 digits before the point fit, and whatever a sum may come to: results are read again where they are put together.
        let mut value: i128 = 0;
        for &digit in whole.iter().chain(part) {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value.checked_mul(10)?.checked_add((digit - b'0').into())?;
        }
        value = value.checked_mul(10_i128.pow((SCALE - part.len()) as u32))?;
        Some(Self(if minus { -value } else { value }))
    }

    /// A whole number.
    pub fn whole(number: i64) -> Self {
        Self(i128::from(number) * ONE)
    }

    /// The sum; `None` if it does not fit (beyond 10^29).
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The quotient, cut off behind the ninth digit.
    pub fn divided_by(self, count: u64) -> Self {
        Self(self.0 / i128::from(count.max(1)))
    }

    /// The difference; `None` if it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The product, cut off behind the ninth digit; `None` if it does not fit.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let (whole, part) = (self.0 / ONE, self.0 % ONE);
        let (whole_other, part_other) = (other.0 / ONE, other.0 % ONE);
        let all = [
            whole.checked_mul(whole_other)?.checked_mul(ONE)?,
            whole.checked_mul(part_other)?,
            whole_other.checked_mul(part)?,
            part * part_other / ONE,
        ];
        let sum = |sum: i128, one| sum.checked_add(one);
        all.into_iter().try_fold(0, sum).map(Self)
    }

    /// The quotient, cut off behind the ninth digit; `None` by zero, or if it does not fit.
    pub fn checked_div(self, other: Self) -> Option<Self> {
        let whole = self.0.checked_div(other.0)?.checked_mul(ONE)?;
        let part = (self.0 % other.0).checked_mul(ONE)? / other.0;
        whole.checked_add(part).map(Self)
    }

    /// The whole quotient that is not above the exact one, and what is left, which has the sign of `other`; `None` by zero,
    /// or if it does not fit.
    pub fn checked_div_floor(self, other: Self) -> Option<(Self, Self)> {
        let (mut whole, mut left) = (self.0.checked_div(other.0)?, self.0 % other.0);
        if left != 0 && (left < 0) != (other.0 < 0) {
            whole -= 1;
            left += other.0;
        }
        Some((Self(whole.checked_mul(ONE)?), Self(left)))
    }

    /// The nearest number with so many digits (up to nine) behind the point, of two the one that is further from zero;
    /// `None` if it does not fit.
    pub fn rounded(self, digits: u32) -> Option<Self> {
        let unit = 10_i128.pow((SCALE as u32).saturating_sub(digits));
        let half = unit / 2 * self.0.signum();
        Some(Self(self.0.checked_add(half)? / unit * unit))
    }

    /// The number without its sign.
    pub fn abs(self) -> Self {
        Self(self.0.saturating_abs())
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (
            self.0.unsigned_abs() / ONE as u128,
            self.0.unsigned_abs() % ONE as u128,
        );
        if self.0 < 0 {
            f.write_str("-")?;
        }
        write!(f, "{whole}")?;
        if part > 0 {
            let digits = format!("{part:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_shown_exactly() {
        for (text, shown) in [
            ("0", "0"),
            (" -12 ", "-12"),
            ("+0.50", "0.5"),
            (".25", "0.25"),
            ("-0.000000001", "-0.000000001"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(Decimal::parse(text.as_bytes()).unwrap().to_string(), shown);
        }
        for wrong in ["", "-", ".", "1e3", "1.0000000001", "0x1", "1,5", "NaN"] {
            assert_eq!(Decimal::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let nines = Decimal::parse(&[b'9'; 28]).unwrap();
        let sum = nines.checked_add(nines).unwrap();
        assert_eq!(Decimal::parse(sum.to_string().as_bytes()), Some(sum));
        assert_eq!(Decimal::parse(&[b'9'; 40]), None);
        let tenth = Decimal::parse(b"0.1").unwrap();
        let sum = (0..10).fold(Decimal::default(), |sum, _| sum.checked_add(tenth).unwrap());
        assert_eq!(sum, Decimal::whole(1));
        assert_eq!(Decimal::whole(1).divided_by(3).to_string(), "0.333333333");
    }

    #[test]
    fn numbers_are_multiplied_divided_and_rounded_as_far_as_they_fit() {
        let read = |text: &str| Decimal::parse(text.as_bytes()).unwrap();
        let shown = |number: Option<Decimal>| number.map_or("-".into(), |all| all.to_string());
        let long = "1234567890123456789012345678";
        for (a, b, product, quotient, floor, left) in [
            ("0.1", "3", "0.3", "0.033333333", "0", "0.1"),
            ("-7", "2", "-14", "-3.5", "-4", "1"),
            ("7", "-2", "-14", "-3.5", "-4", "-1"),
            ("-7.5", "-2.5", "18.75", "3", "3", "0"),
            (
                "1.000000001",
                "0.5",
                "0.5",
                "2.000000002",
                "2",
                "0.000000001",
            ),
            ("5", "0", "0", "-", "-", "-"),
            (long, "1", long, long, long, "0"),
            (
                long,
                "1000",
                "-",
                "1234567890123456789012345.678",
                "1234567890123456789012345",
                "678",
            ),
            (
                long,
                "0.0000001",
                "123456789012345678901.2345678",
                "-",
                "-",
                "-",
            ),
        ] {
            let (a, b) = (read(a), read(b));
            assert_eq!(shown(a.checked_mul(b)), product, "{a} * {b}");
            assert_eq!(shown(b.checked_mul(a)), product, "{b} * {a}");
            assert_eq!(shown(a.checked_div(b)), quotient, "{a} / {b}");
            let whole = a.checked_div_floor(b);
            assert_eq!(shown(whole.map(|all| all.0)), floor, "{a} // {b}");
            assert_eq!(shown(whole.map(|all| all.1)), left, "{a} % {b}");
        }
        for (number, digits, rounded) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("2.449", 1, "2.4"),
            ("0.123456789", 9, "0.123456789"),
            ("99.995", 2, "100"),
        ] {
            assert_eq!(shown(read(number).rounded(digits)), rounded, "{number}");
        }
        assert_eq!(read("-1.5").abs(), read("1.5"));
        assert_eq!(read("1").checked_sub(read("1.5")), Some(read("-0.5")));
        let most = Decimal(i128::MAX);
        assert_eq!(most.checked_mul(most), None);
        assert_eq!(Decimal(i128::MIN).checked_sub(most), None);
        assert_eq!(Decimal(i128::MIN).checked_div(Decimal(-1)), None);
        assert_eq!(most.rounded(0), None);
    }
}
