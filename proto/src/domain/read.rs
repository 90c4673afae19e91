//! `Reader`: protobuf fields one by one, straight into the core's values, without a message in between.
//!
//! Invariant: it takes what `Writer` and `prost` write; any other bytes give values or an `Undecodable`, never a panic.
//! Unknown fields are the caller's to pass over. Not here: which field is what (`log`, `rows`).

use std::sync::Arc;

use bytes::Bytes;
use prost::encoding::{WireType, decode_varint};

use holdfast_scheduler::{
    ids::{
        AdvanceNo, DeliveryNo, Digest, Epoch, FeatureLevel, Fence, Generation, IntentNo, LimitName,
        Name, NodeId, ProcessId, RequestId, RunId, Seq, SessionId, Version,
    },
    time::{Millis, Timestamp},
};

use super::Undecodable;

/// The fields of a message that are still to be read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'b> {
    /// What all slices are cut from.
    whole: &'b Bytes,
    rest: &'b [u8],
}

/// One field.
#[derive(Clone, Copy)]
pub(super) enum Field<'b> {
    Number(u64),
    /// Bytes, a text, or a message.
    Bytes(Reader<'b>),
}

impl<'b> Reader<'b> {
    /// Reads what follows the first `skip` bytes.
    pub(super) fn new(bytes: &'b Bytes, skip: usize) -> Self {
        Self {
            whole: bytes,
            rest: bytes.get(skip..).unwrap_or_default(),
        }
    }

    /// Gives each field and its number to `take`.
    pub(super) fn each(
        mut self,
        mut take: impl FnMut(u32, Field<'b>) -> Result<(), Undecodable>,
    ) -> Result<(), Undecodable> {
        while !self.rest.is_empty() {
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).map_err(|_| bad("its number is too large"))?;
            let field = match WireType::try_from(key & 7) {
                Ok(WireType::Varint) => Field::Number(self.varint()?),
                Ok(WireType::SixtyFourBit) => {
                    let split = self.rest.split_first_chunk();
                    let (bytes, rest) = split.ok_or_else(|| bad("cut short"))?;
                    self.rest = rest;
                    Field::Number(u64::from_le_bytes(*bytes))
                }
                Ok(WireType::LengthDelimited) => {
                    let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                    let split = self.rest.split_at_checked(length);
                    let (bytes, rest) = split.ok_or_else(|| bad("cut short"))?;
                    self.rest = rest;
                    let whole = self.whole;
                    Field::Bytes(Self { whole, rest: bytes })
                }
                Ok(WireType::StartGroup | WireType::EndGroup | WireType::ThirtyTwoBit) | Err(_) => {
                    return Err(bad("of a form that is never written"));
                }
            };
            take(number, field)?;
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Undecodable> {
        if let [byte @ 0..128, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        decode_varint(&mut self.rest).map_err(|cause| bad(&cause.to_string()))
    }
}

impl<'b> Field<'b> {
    /// Puts the value in its place.
    pub(super) fn to<T: FromField<'b>>(self, place: &mut T) -> Result<(), Undecodable> {
        *place = T::from_field(self)?;
        Ok(())
    }

    /// One more of many.
    pub(super) fn one_of<T: FromField<'b>>(self, all: &mut Vec<T>) -> Result<(), Undecodable> {
        all.push(T::from_field(self)?);
        Ok(())
    }

    /// Reads a message by `take`, and puts it in its place.
    pub(super) fn message_to<T>(
        self,
        place: &mut Option<T>,
        take: impl FnOnce(Reader<'b>) -> Result<T, Undecodable>,
    ) -> Result<(), Undecodable> {
        *place = Some(take(self.message()?)?);
        Ok(())
    }

    /// Reads one more message of many by `take`.
    pub(super) fn one_message_of<T>(
        self,
        all: &mut Vec<T>,
        take: impl FnOnce(Reader<'b>) -> Result<T, Undecodable>,
    ) -> Result<(), Undecodable> {
        all.push(take(self.message()?)?);
        Ok(())
    }

    /// The fields of a message.
    pub(super) fn message(self) -> Result<Reader<'b>, Undecodable> {
        match self {
            Self::Bytes(reader) => Ok(reader),
            Self::Number(_) => Err(bad("a number in place of bytes")),
        }
    }
}

fn bad(why: &str) -> Undecodable {
    Undecodable::new("field", why)
}

/// What a field can hold.
pub(super) trait FromField<'b>: Sized {
    /// Its value.
    fn from_field(field: Field<'b>) -> Result<Self, Undecodable>;
}

impl<'b, T: FromField<'b>> FromField<'b> for Option<T> {
    fn from_field(field: Field<'b>) -> Result<Self, Undecodable> {
        T::from_field(field).map(Some)
    }
}

impl FromField<'_> for u64 {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        match field {
            Field::Number(number) => Ok(number),
            Field::Bytes(_) => Err(bad("bytes in place of a number")),
        }
    }
}

impl FromField<'_> for bool {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        u64::from_field(field).map(|number| number != 0)
    }
}

impl FromField<'_> for Bytes {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        let reader = field.message()?;
        Ok(reader.whole.slice_ref(reader.rest))
    }
}

impl<'b> FromField<'b> for &'b str {
    fn from_field(field: Field<'b>) -> Result<Self, Undecodable> {
        let reader = field.message()?;
        std::str::from_utf8(reader.rest).map_err(|_| bad("a text is not UTF-8"))
    }
}

impl FromField<'_> for String {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        <&str>::from_field(field).map(str::to_owned)
    }
}

impl FromField<'_> for Arc<str> {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        <&str>::from_field(field).map(Arc::from)
    }
}

macro_rules! small {
    ($($number:ty),*) => { $(
        impl FromField<'_> for $number {
            fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
                let number = u64::from_field(field)?;
                Self::try_from(number).map_err(|_| bad("a number is out of range"))
            }
        }
    )* };
}
small!(u8, u32);

macro_rules! numbers {
    ($($name:ident($of:ty)),*) => { $(
        impl FromField<'_> for $name {
            fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
                <$of>::from_field(field).map(Self)
            }
        }
    )* };
}
numbers!(
    AdvanceNo(u32),
    DeliveryNo(u32),
    Digest(u64),
    Epoch(u64),
    FeatureLevel(u32),
    Generation(u32),
    IntentNo(u32),
    Millis(u64),
    NodeId(u64),
    Seq(u32),
    SessionId(u64),
    Timestamp(u64),
    Version(u32)
);

impl FromField<'_> for Fence {
    fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
        u64::from_field(field).map(Self::from_wire)
    }
}

macro_rules! names {
    ($($name:ident),*) => { $(
        impl FromField<'_> for $name {
            fn from_field(field: Field<'_>) -> Result<Self, Undecodable> {
                let text = <&str>::from_field(field)?;
                if text.is_empty() {
                    return Err(bad("a name is empty")); // it would be left out as it is written again
                }
                Ok(Self::from_stored(text))
            }
        }
    )* };
}
names!(LimitName, Name, ProcessId, RequestId, RunId);
