//! What people type: durations, rates, versions, JSON.

use std::{io::Read, time::Duration};

/// `250ms`, `10s`, `5m`, `2h`, `3d`.
///
/// # Errors
/// It is none of these.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let bad = || format!("{text} is no duration such as 250ms, 10s, 5m, 2h or 3d");
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number
        .checked_mul(ms)
        .map(Duration::from_millis)
        .ok_or_else(bad)
}

/// `10/s`, `600/m`, `5/250ms`: a count per span.
///
/// # Errors
/// It is no such thing.
pub fn rate(text: &str) -> Result<(u32, Duration), String> {
    let bad = || format!("{text} is no rate such as 10/s, 600/m or 5/250ms");
    let (count, span) = text.split_once('/').ok_or_else(bad)?;
    let count = count.parse().map_err(|_| bad())?;
    let span = if span.starts_with(|c: char| c.is_ascii_digit()) {
        span.to_owned()
    } else {
        format!("1{span}")
    };
    Ok((count, duration(&span).map_err(|_| bad())?))
}

/// `order@v3`.
///
/// # Errors
/// It is no such thing.
pub fn version(text: &str) -> Result<(String, u32), String> {
    let bad = || format!("{text} is no version such as order@v3");
    let (name, version) = text.split_once("@v").ok_or_else(bad)?;
    Ok((name.to_owned(), version.parse().map_err(|_| bad())?))
}

/// JSON itself, `@FILE`, or `-` for stdin; a word that is not JSON is a JSON text.
///
/// # Errors
/// The file cannot be read, or is not JSON.
pub fn json(text: &str) -> Result<serde_json::Value, String> {
    let read = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|cause| format!("{path}: {cause}"))?,
        None if text == "-" => {
            let mut read = String::new();
            std::io::stdin()
                .read_to_string(&mut read)
                .map_err(|cause| cause.to_string())?;
            read
        }
        None => {
            let word = || serde_json::Value::String(text.to_owned());
            return Ok(serde_json::from_str(text).unwrap_or_else(|_| word()));
        }
    };
    serde_json::from_str(&read).map_err(|cause| format!("not JSON: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3d"), Ok(Duration::from_secs(3 * 86_400)));
        assert!(duration("soon").is_err());
        assert!(duration("99999999999999999999d").is_err());
    }

    #[test]
    fn rates_are_counts_per_span() {
        assert_eq!(rate("10/s"), Ok((10, Duration::from_secs(1))));
        assert_eq!(rate("5/250ms"), Ok((5, Duration::from_millis(250))));
        assert!(rate("10").is_err());
    }

    #[test]
    fn versions_name_workflow_and_number() {
        assert_eq!(version("order@v3"), Ok(("order".to_owned(), 3)));
        assert!(version("order@3").is_err());
    }

    #[test]
    fn a_word_that_is_not_json_is_a_text() {
        assert_eq!(json("1001"), Ok(serde_json::json!(1001)));
        assert_eq!(json("abc"), Ok(serde_json::json!("abc")));
        assert_eq!(json(r#"{"a":1}"#), Ok(serde_json::json!({"a": 1})));
    }
}
