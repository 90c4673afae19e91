//! `Writer`: protobuf fields one by one, straight from the core's values, without a message in between.
//!
//! Invariant: the same bytes as `prost` gives for the message (fields in the order of their numbers, defaults left out);
//! `tests/round_trips.rs` compares them. Not here: which field is what (`log`, `rows`).

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

/// A message being written. Fields are given in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// With room for so many bytes; more is found as it is needed.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// What was written.
    pub(super) fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A number; 0 is the default and left out.
    pub(super) fn uint(&mut self, field: u32, number: impl Into<u64>) {
        let number = number.into();
        if number != 0 {
            self.some_uint(field, number);
        }
    }

    /// A number of an `optional` field or a `oneof`.
    pub(super) fn some_uint(&mut self, field: u32, number: impl Into<u64>) {
        encode_key(field, WireType::Varint, &mut self.0);
        encode_varint(number.into(), &mut self.0);
    }

    /// A number of an `optional` field, if there is one.
    pub(super) fn opt_uint(&mut self, field: u32, number: Option<impl Into<u64>>) {
        if let Some(number) = number {
            self.some_uint(field, number);
        }
    }

    /// A number of eight bytes; 0 is the default and left out.
    pub(super) fn fixed(&mut self, field: u32, number: u64) {
        if number != 0 {
            encode_key(field, WireType::SixtyFourBit, &mut self.0);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Bytes; none is the default and left out.
    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.some_bytes(field, bytes);
        }
    }

    /// Bytes of an `optional` field, a `oneof`, or one of many.
    pub(super) fn some_bytes(&mut self, field: u32, bytes: &[u8]) {
        self.length(field, bytes.len());
        self.raw(bytes);
    }

    /// So many bytes follow, which make the field.
    pub(super) fn length(&mut self, field: u32, bytes: usize) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes as u64, &mut self.0);
    }

    /// Bytes of an `optional` field, if there are any.
    pub(super) fn opt_bytes(&mut self, field: u32, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.some_bytes(field, bytes);
        }
    }

    /// A text; the empty one is the default and left out.
    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// A text of an `optional` field, a `oneof`, or one of many.
    pub(super) fn some_text(&mut self, field: u32, text: &str) {
        self.some_bytes(field, text.as_bytes());
    }

    /// A text of an `optional` field, if there is one.
    pub(super) fn opt_text(&mut self, field: u32, text: Option<&str>) {
        self.opt_bytes(field, text.map(str::as_bytes));
    }

    /// A message within this one.
    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        // Most are shorter than 128 bytes, whose length takes one.
        let at = self.0.len();
        self.0.push(0);
        fill(self);
        let length = self.0.len() - at - 1;
        if let Ok(short @ 0..128) = u8::try_from(length) {
            self.0[at] = short;
        } else {
            let mut digits = Vec::with_capacity(10);
            encode_varint(length as u64, &mut digits);
            self.0.splice(at..=at, digits);
        }
    }

    /// A message of an `optional` field, if there is one.
    pub(super) fn opt_message<T>(
        &mut self,
        field: u32,
        it: Option<T>,
        fill: impl FnOnce(&mut Self, T),
    ) {
        if let Some(it) = it {
            self.message(field, |to| fill(to, it));
        }
    }

    /// Messages of a `repeated` field.
    pub(super) fn messages<T>(
        &mut self,
        field: u32,
        all: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Self, T),
    ) {
        for it in all {
            self.message(field, |to| fill(to, it));
        }
    }

    /// Texts of a `repeated` field.
    pub(super) fn texts<'t>(&mut self, field: u32, all: impl IntoIterator<Item = &'t str>) {
        for text in all {
            self.some_text(field, text);
        }
    }
}
