//! Values of PostgreSQL's binary formats → Arrow. pgvector's types are told by name: their oids differ from database to database.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    BooleanBuilder, Date32Builder, FixedSizeBinaryBuilder, Float16Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use half::f16;
use tokio_postgres::types::{Kind, Type};

use super::{ForeignError, Wanted};

const EXPECTED: &str = "a boolean, an integer, real, double precision, text, uuid, date, timestamp, json, jsonb, text[], \
                        vector or halfvec (others can be cast in a `query`)";
/// PostgreSQL counts from 2000.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROSECONDS: i64 = EPOCH_DAYS as i64 * 86_400 * 1_000_000;

/// The columns to read: those wanted, in their order, or all that can be.
pub(super) fn columns_of(
    uri: &str,
    there: &[(&str, &Type)],
    wanted: &Wanted,
) -> Result<Vec<(String, Type)>, ForeignError> {
    let find = |name: &str| there.iter().find(|(there, _)| *there == name).map(|(_, found)| (*found).clone());
    let available =
        || there.iter().map(|(name, found)| format!("`{name}` {found}")).collect::<Vec<_>>().join(", ");
    let names: Vec<String> = match wanted.columns() {
        Some(names) => names,
        None => {
            let known = there.iter().filter(|(_, found)| ColumnBuilder::of(found, false).is_some());
            known.map(|(name, _)| (*name).to_string()).collect()
        }
    };
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        let wrong = |expected, got: &Type| ForeignError::ColumnType {
            uri: uri.into(),
            column: name.clone(),
            expected,
            got: got.to_string(),
        };
        let found = find(&name).ok_or_else(|| ForeignError::MissingColumn {
            uri: uri.into(),
            column: name.clone(),
            available: available(),
        })?;
        if ColumnBuilder::of(&found, false).is_none() {
            return Err(wrong(EXPECTED, &found));
        }
        if name == wanted.vector && wanted.text.is_none() && !is_vector(&found) {
            return Err(wrong("vector, halfvec or real[]", &found));
        }
        columns.push((name, found));
    }
    if wanted.text.is_none() && !columns.iter().any(|(name, _)| *name == wanted.vector) {
        let column = wanted.vector.clone();
        return Err(ForeignError::MissingColumn { uri: uri.into(), column, available: available() });
    }
    Ok(columns)
}

fn is_vector(found: &Type) -> bool {
    matches!(found.name(), "vector" | "halfvec") || *found == Type::FLOAT4_ARRAY
}

/// A column that grows by values in the wire's form.
pub(super) enum ColumnBuilder {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Text(StringBuilder),
    /// A version byte before the text.
    Jsonb(StringBuilder),
    Uuid(FixedSizeBinaryBuilder),
    UuidText(StringBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Texts(ListBuilder<StringBuilder>),
    Vector(ListBuilder<Float32Builder>),
    Halfvec(ListBuilder<Float16Builder>),
    Floats(ListBuilder<Float32Builder>),
}

impl ColumnBuilder {
    /// `None` for a type that is not read. UUIDs are ids of 16 bytes, and text among attributes.
    pub fn of(found: &Type, is_id: bool) -> Option<Self> {
        let text = || Self::Text(StringBuilder::new());
        Some(match *found {
            Type::BOOL => Self::Boolean(BooleanBuilder::new()),
            Type::INT2 => Self::Int16(Int16Builder::new()),
            Type::INT4 => Self::Int32(Int32Builder::new()),
            Type::INT8 => Self::Int64(Int64Builder::new()),
            Type::FLOAT4 => Self::Float32(Float32Builder::new()),
            Type::FLOAT8 => Self::Float64(Float64Builder::new()),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON => text(),
            Type::JSONB => Self::Jsonb(StringBuilder::new()),
            Type::UUID if is_id => Self::Uuid(FixedSizeBinaryBuilder::new(16)),
            Type::UUID => Self::UuidText(StringBuilder::new()),
            Type::DATE => Self::Date(Date32Builder::new()),
            Type::TIMESTAMP => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            Type::TIMESTAMPTZ => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Type::TEXT_ARRAY | Type::VARCHAR_ARRAY => Self::Texts(ListBuilder::new(StringBuilder::new())),
            Type::FLOAT4_ARRAY => Self::Floats(ListBuilder::new(Float32Builder::new())),
            _ => match (found.name(), found.kind()) {
                ("vector", Kind::Simple) => Self::Vector(ListBuilder::new(Float32Builder::new())),
                ("halfvec", Kind::Simple) => Self::Halfvec(ListBuilder::new(Float16Builder::new())),
                ("citext", _) | (_, Kind::Enum(_)) => text(),
                (_, Kind::Domain(inner)) => return Self::of(inner, is_id),
                _ => return None,
            },
        })
    }

    /// # Errors
    /// Bytes that are no such value.
    pub fn push(&mut self, raw: Option<&[u8]>) -> Result<(), String> {
        match self {
            Self::Boolean(builder) => {
                builder.append_option(raw.map(fixed::<1>).transpose()?.map(|[byte]| byte != 0))
            }
            Self::Int16(builder) => {
                builder.append_option(raw.map(fixed).transpose()?.map(i16::from_be_bytes))
            }
            Self::Int32(builder) => {
                builder.append_option(raw.map(fixed).transpose()?.map(i32::from_be_bytes))
            }
            Self::Int64(builder) => {
                builder.append_option(raw.map(fixed).transpose()?.map(i64::from_be_bytes))
            }
            Self::Float32(builder) => {
                builder.append_option(raw.map(fixed).transpose()?.map(f32::from_be_bytes))
            }
            Self::Float64(builder) => {
                builder.append_option(raw.map(fixed).transpose()?.map(f64::from_be_bytes))
            }
            Self::Text(builder) => builder.append_option(raw.map(text).transpose()?),
            Self::Jsonb(builder) => builder.append_option(raw.map(jsonb).transpose()?),
            Self::Uuid(builder) => match raw {
                Some(raw) => builder.append_value(fixed::<16>(raw)?).map_err(|error| error.to_string())?,
                None => builder.append_null(),
            },
            Self::UuidText(builder) => builder.append_option(raw.map(fixed).transpose()?.map(uuid_text)),
            Self::Date(builder) => {
                let days = raw.map(fixed).transpose()?.map(i32::from_be_bytes);
                builder.append_option(days.map(|days| days.saturating_add(EPOCH_DAYS)));
            }
            // `infinity` and `-infinity` are the farthest values, and stay so.
            Self::Timestamp(builder) => {
                let since = raw.map(fixed).transpose()?.map(i64::from_be_bytes);
                builder.append_option(since.map(|since| match since {
                    i64::MIN => i64::MIN,
                    since => since.saturating_add(EPOCH_MICROSECONDS),
                }));
            }
            Self::Texts(builder) => match raw {
                Some(raw) => {
                    let items = array(raw)?.into_iter().map(|item| item.map(text).transpose());
                    builder.append_value(items.collect::<Result<Vec<_>, _>>()?);
                }
                None => builder.append_null(),
            },
            Self::Vector(builder) => match raw {
                Some(raw) => {
                    let values = vector(raw, 4)?.chunks_exact(4);
                    builder.append_value(values.map(|b| Some(f32::from_be_bytes([b[0], b[1], b[2], b[3]]))));
                }
                None => builder.append_null(),
            },
            Self::Halfvec(builder) => match raw {
                Some(raw) => {
                    let values = vector(raw, 2)?.chunks_exact(2);
                    builder.append_value(values.map(|b| Some(f16::from_be_bytes([b[0], b[1]]))));
                }
                None => builder.append_null(),
            },
            Self::Floats(builder) => match raw {
                Some(raw) => {
                    let value = |item: &[u8]| fixed(item).map(f32::from_be_bytes);
                    let items = array(raw)?.into_iter().map(|item| item.map(value).transpose());
                    builder.append_value(items.collect::<Result<Vec<_>, _>>()?);
                }
                None => builder.append_null(),
            },
        }
        Ok(())
    }

    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float32(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Text(builder) | Self::Jsonb(builder) | Self::UuidText(builder) => {
                Arc::new(builder.finish())
            }
            Self::Uuid(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::Texts(builder) => Arc::new(builder.finish()),
            Self::Vector(builder) | Self::Floats(builder) => Arc::new(builder.finish()),
            Self::Halfvec(builder) => Arc::new(builder.finish()),
        }
    }
}

fn fixed<const N: usize>(raw: &[u8]) -> Result<[u8; N], String> {
    raw.try_into().map_err(|_| format!("expected a value of {N} bytes, got {}", raw.len()))
}

fn text(raw: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(raw).map_err(|error| format!("the text is not UTF-8: {error}"))
}

fn jsonb(raw: &[u8]) -> Result<&str, String> {
    match raw.split_first() {
        Some((1, json)) => text(json),
        version => Err(format!("expected jsonb of version 1, got {:?}", version.map(|(version, _)| version))),
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The values of a pgvector value, big-endian, `size` bytes each: u16 dimension, u16 zero, then they.
fn vector(raw: &[u8], size: usize) -> Result<&[u8], String> {
    match raw {
        [a, b, _, _, values @ ..] => {
            let dim = usize::from(u16::from_be_bytes([*a, *b]));
            let expected = dim * size;
            if values.len() == expected {
                return Ok(values);
            }
            Err(format!("expected {expected} bytes of a vector of {dim} dimensions, got {}", values.len()))
        }
        _ => Err(format!("expected a vector, got {} bytes", raw.len())),
    }
}

/// The items of an array of one dimension: i32 dimensions, i32 whether any is null, u32 type; i32 length and i32 lower bound of each
/// dimension; then each item's i32 length, −1 for NULL, and bytes.
fn array(raw: &[u8]) -> Result<Vec<Option<&[u8]>>, String> {
    let mut rest = raw;
    let mut number = || -> Result<i32, String> {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or("the array is cut short")?;
        rest = tail;
        Ok(i32::from_be_bytes(*head))
    };
    let dimensions = number()?;
    let (_, _) = (number()?, number()?);
    match dimensions {
        0 => return Ok(Vec::new()),
        1 => {}
        _ => return Err(format!("expected an array of one dimension, got {dimensions}")),
    }
    let (length, _) = (number()?, number()?);
    let mut items = Vec::new();
    for _ in 0..length {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or("the array is cut short")?;
        match usize::try_from(i32::from_be_bytes(*head)) {
            Ok(bytes) => {
                let (item, tail) = tail.split_at_checked(bytes).ok_or("the array is cut short")?;
                items.push(Some(item));
                rest = tail;
            }
            Err(_) => {
                items.push(None);
                rest = tail;
            }
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Array;
    use arrow_array::cast::AsArray;

    fn built(found: &Type, is_id: bool, values: &[Option<&[u8]>]) -> Result<ArrayRef, String> {
        let mut builder = ColumnBuilder::of(found, is_id).unwrap();
        values.iter().try_for_each(|value| builder.push(*value))?;
        Ok(builder.finish())
    }

    #[test]
    fn bytes_that_are_no_value_are_refused_and_not_read_beyond() {
        let vector = Type::new("vector".into(), 99, Kind::Simple, "public".into());
        let no_vector: [&[u8]; 4] =
            [&[], &[0, 1, 0], &[0, 2, 0, 0, 0, 0, 0, 0], &[0, 1, 0, 0, 0, 0, 0, 0, 0]];
        for raw in no_vector {
            built(&vector, false, &[Some(raw)]).unwrap_err();
        }
        for cut in 0..24 {
            // {"ab"} as text[].
            let whole = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b'];
            assert!(built(&Type::TEXT_ARRAY, false, &[Some(&whole[..cut])]).is_err(), "{cut}");
            built(&Type::TEXT_ARRAY, false, &[Some(&whole)]).unwrap();
        }
        built(&Type::INT8, false, &[Some(&[0; 4])]).unwrap_err();
        built(&Type::TEXT, false, &[Some(&[0xff])]).unwrap_err();
        built(&Type::JSONB, false, &[Some(&[2, b'{', b'}'])]).unwrap_err();
        built(&Type::UUID, true, &[Some(&[0; 15])]).unwrap_err();
    }

    #[test]
    fn values_and_nulls_come_through() {
        let vector = Type::new("vector".into(), 99, Kind::Simple, "public".into());
        let rows = built(&vector, false, &[Some(&[0, 1, 0, 0, 0x3f, 0x80, 0, 0]), None, Some(&[0, 0, 0, 0])])
            .unwrap();
        let rows = rows.as_list::<i32>();
        assert_eq!((rows.value(0).len(), rows.is_null(1), rows.value(2).len()), (1, true, 0));
        let uuid = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8];
        let texts = built(&Type::UUID, false, &[Some(&uuid)]).unwrap();
        assert_eq!(texts.as_string::<i32>().value(0), "12345678-9abc-def0-0102-030405060708");
        assert_eq!(built(&Type::UUID, true, &[Some(&uuid)]).unwrap().as_fixed_size_binary().value(0), uuid);
    }

    #[test]
    fn a_type_that_is_not_read_is_named_with_what_is() {
        let wanted = Wanted { vector: "v".into(), id: None, others: Some(vec!["price".into()]), text: None };
        let vector = Type::new("vector".into(), 99, Kind::Simple, "public".into());
        let error = columns_of("db", &[("v", &vector), ("price", &Type::NUMERIC)], &wanted).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`price`") && text.contains("numeric") && text.contains("cast"), "{text}");
        let all = Wanted { others: None, ..wanted.clone() };
        let columns = columns_of("db", &[("v", &vector), ("price", &Type::NUMERIC)], &all).unwrap();
        assert_eq!(columns.len(), 1);
        let error = columns_of("db", &[("price", &Type::FLOAT8), ("v", &Type::TEXT)], &wanted).unwrap_err();
        assert!(error.to_string().contains("vector, halfvec"), "{error}");
    }
}
