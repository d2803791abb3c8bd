//! Numbers as people read them: `336,479`, `12.5 MiB`, `1 min 05 s`.

use std::time::Duration;

/// With a comma at each thousand.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// In units of 1,024: `512 B`, `3.9 KiB`, `12.5 MiB`, `120 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    // 1,023.95 would print as 1,024.
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(scaled < 99.95);
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// `2GiB`, `512 MiB`, `1.5 GB`, `800000000`: units of 1,024 or, without the `i`, of 1,000, in any case.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let prefix = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = prefix.strip_suffix('i').map_or((prefix, 1000f64), |prefix| (prefix, 1024f64));
    let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == prefix)?;
    // `2i`, `2ib` are nothing.
    if power == 0 && base == 1024.0 {
        return None;
    }
    let value = number.parse::<f64>().ok()? * base.powi(power as i32);
    (value.is_finite() && value < u64::MAX as f64).then_some(value as u64)
}

/// `850 µs`, `12.3 ms`, `4.56 s`, `1 min 05 s`, `2 h 07 min`: three digits are enough to compare.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs_f64();
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 0.000_999_5 => format!("{:.0} µs", s * 1e6),
        s if s < 0.009_995 => format!("{:.2} ms", s * 1e3),
        s if s < 0.099_95 => format!("{:.1} ms", s * 1e3),
        s if s < 0.999_5 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `2026-11-20 07:31:40 UTC`, from milliseconds since 1970.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    )
}

/// Days since 1970 → year, month, day of the Gregorian calendar: years that start in March, whose leap day comes last
/// (H. Hinnant, chrono-compatible low-level date algorithms, 2013).
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // 0000-03-01 lies 719,468 days before 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_the_units_that_people_write() {
        for (text, value) in [
            ("2GiB", 2 << 30),
            ("512 MiB", 512 << 20),
            ("1.5 GB", 1_500_000_000),
            ("64k", 64_000),
            ("800000000", 800_000_000),
            (" 1 tib ", 1 << 40),
            ("1.5 GiB", 3 << 29),
            ("0", 0),
            ("7 B", 7),
        ] {
            assert_eq!(parse_bytes(text), Some(value), "{text}");
        }
        for text in [
            "",
            "GiB",
            "2 GGiB",
            "2i",
            "-1",
            "1e3",
            "1e30",
            "nan",
            "inf",
            "1 XiB",
            "2 EiB",
            "1.2.3 GB",
            "99999999999999 PiB",
        ] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn counts_are_grouped() {
        let cases =
            [(0, "0"), (999, "999"), (1000, "1,000"), (336_479, "336,479"), (12_345_678, "12,345,678")];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn bytes_take_the_unit_that_keeps_them_short() {
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4_000_000, "3.8 MiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (150 << 20, "150 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn times_are_those_of_date_u() {
        for (unix_s, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_159_900, "2026-11-20 07:31:40 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix_s * 1000 + 999), text);
        }
        utc(u64::MAX);
    }

    #[test]
    fn durations_take_the_unit_that_keeps_them_short() {
        for (microseconds, text) in [
            (0, "0 µs"),
            (850, "850 µs"),
            (1_000, "1.00 ms"),
            (12_345, "12.3 ms"),
            (999_600, "1.00 s"),
            (9_996_000, "10.0 s"),
            (59_960_000, "1 min 00 s"),
            (65_000_000, "1 min 05 s"),
            (7_620_000_000, "2 h 07 min"),
        ] {
            assert_eq!(duration(Duration::from_micros(microseconds)), text);
        }
    }
}
