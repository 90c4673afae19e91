//! Digests of inputs and arguments: over canonical JSON (sorted keys), so that the same value digests equally everywhere.

use bytes::Bytes;
use serde::Serialize;
use twox_hash::XxHash3_64;

/// What one value may have, as JSON.
pub(crate) const VALUE_BYTES_MAX: usize = 256 * 1024;
/// What the progress of an attempt may have, as JSON.
pub(crate) const PROGRESS_BYTES_MAX: usize = 16 * 1024;

/// A value as it travels: its JSON, and the digest of its canonical form.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) json: Bytes,
    pub(crate) digest: u64,
}

/// Encodes a value. `serde_json::Value` keeps object keys sorted, which makes its text canonical.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Encoded, serde_json::Error> {
    let canonical = serde_json::to_vec(&serde_json::to_value(value)?)?;
    let digest = XxHash3_64::oneshot(&canonical);
    Ok(Encoded {
        json: canonical.into(),
        digest,
    })
}

/// Says what is too large for the log, by how much, and what to do, before anything is proposed.
pub(crate) fn fits(what: &str, json: &[u8]) -> Result<(), String> {
    within(what, json, VALUE_BYTES_MAX)
}

/// As `fits`, for a bound of its own.
pub(crate) fn within(what: &str, json: &[u8], max: usize) -> Result<(), String> {
    let size = json.len();
    if size <= max {
        return Ok(());
    }
    Err(format!(
        "{what} has {size} bytes as JSON, at most {max} are recorded; make it smaller, or keep it elsewhere and \
         record where it is"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_order_of_keys_does_not_matter() {
        let text = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        let a = encode(&text(r#"{"a":1,"b":{"d":2,"c":3}}"#)).unwrap();
        let b = encode(&text(r#"{"b":{"c":3,"d":2},"a":1}"#)).unwrap();
        assert_eq!(a.digest, b.digest);
        let map: HashMap<String, u32> = (0..100).map(|n| (n.to_string(), n)).collect();
        assert_eq!(
            encode(&map).unwrap().digest,
            encode(&map.clone()).unwrap().digest
        );
    }

    #[test]
    fn different_values_digest_differently() {
        assert_ne!(encode(&1).unwrap().digest, encode(&2).unwrap().digest);
    }
}
