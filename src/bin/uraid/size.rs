//! Numbers of bytes and spans of time, as people write and read them.

use std::time::Duration;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Reads a number of bytes: digits and, if wanted, one of K, M, G, T, P, E (also `k`, `KiB`...), all binary.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 =
        digits.parse().map_err(|_| format!("'{text}' is no number of bytes, like 4096 or 64K"))?;
    let suffix = &text[digits.len()..];
    let letter = suffix.strip_suffix("iB").unwrap_or(suffix).to_ascii_uppercase();
    let power = match letter.as_str() {
        "" if suffix.is_empty() => 0,
        "B" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        "P" => 5,
        "E" => 6,
        _ => return Err(format!("'{suffix}' is no suffix: K, M, G and T are, and they are binary")),
    };
    number.checked_mul(1 << (10 * power)).ok_or_else(|| format!("{text} is more than 2^64 bytes"))
}

/// `bytes` with a binary unit, one decimal place where it says anything.
pub(crate) fn bytes(bytes: u64) -> String {
    let power = (bytes.max(1).ilog2() / 10) as usize;
    let scaled = bytes as f64 / (1u64 << (10 * power)) as f64;
    let figure = format!("{scaled:.1}");
    format!("{} {}", figure.strip_suffix(".0").unwrap_or(&figure), UNITS[power.min(UNITS.len() - 1)])
}

/// Bytes per second over `elapsed`; 0 for no time at all.
pub(crate) fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { (bytes as f64 / seconds) as u64 } else { 0 }
}

/// `seconds` in its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("512B", 512),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("3M", 3 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in
            ["", "K", "-1", "1.5G", "64KB", "64iB", "16E", "1 G", "64KK", "0x10", "99999999999999999999"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(65536), "64 KiB");
        assert_eq!(bytes(402_259_968), "383.6 MiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(8220), "2 h 17 min");
        assert_eq!(per_second(10, Duration::ZERO), 0);
    }
}
