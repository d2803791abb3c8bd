//! Word vectors as one JSON object: `{…, "vectors": {"the": [v₀, …, v_dim−1, norm, rank], …}, …}`, streamed.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::rows::{Attribute, Column, Rows};
use crate::vectors::VectorBuf;

/// Each row's `id` and `rank` are the word's place by frequency, from 0. Rows come in that order, whatever the file's.
///
/// # Errors
/// A message, with line and column, where the JSON is not of this shape, a vector is not of `dim` values, a value is not
/// finite, or ranks are not a permutation of `0..rows`.
pub fn read(json: impl Read, rows: usize, dim: usize) -> Result<Rows, String> {
    let mut table =
        Table { dim, values: vec![0.0; rows * dim], words: vec![None; rows], found: 0, scratch: Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_reader(json);
    (&mut table).deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    if table.found != rows {
        return Err(format!("expected {rows} words, got {}", table.found));
    }
    // `found` words with distinct ranks below `rows`: every slot is filled.
    let words = table.words.into_iter().flatten().collect();
    let attributes = vec![
        Attribute { name: "word", column: Column::Text(words) },
        Attribute { name: "rank", column: Column::Int((0..rows as i32).collect()) },
    ];
    Ok(Rows::new((0..rows as i64).collect(), VectorBuf::new(table.values, dim), attributes))
}

struct Table {
    dim: usize,
    /// rows × dim
    values: Vec<f32>,
    words: Vec<Option<String>>,
    found: usize,
    scratch: Vec<f64>,
}

impl Table {
    /// `scratch` holds a word's array: `dim` values, their norm, the rank.
    fn insert(&mut self, word: String) -> Result<(), String> {
        if self.scratch.len() != self.dim + 2 {
            return Err(format!("{word:?}: expected {} numbers, got {}", self.dim + 2, self.scratch.len()));
        }
        let (vector, rank) = (&self.scratch[..self.dim], self.scratch[self.dim + 1]);
        let in_range = rank >= 0.0 && rank < self.words.len() as f64 && rank.fract() == 0.0;
        if !in_range {
            return Err(format!("{word:?}: rank {rank} is no whole number below {}", self.words.len()));
        }
        let slot = rank as usize;
        if let Some(other) = &self.words[slot] {
            return Err(format!("{word:?} and {other:?} both have rank {slot}"));
        }
        for (to, &from) in self.values[slot * self.dim..].iter_mut().zip(vector) {
            *to = from as f32;
            if !to.is_finite() {
                return Err(format!("{word:?}: {from} is no finite f32"));
            }
        }
        self.words[slot] = Some(word);
        self.found += 1;
        Ok(())
    }
}

/// The outer object: all but `vectors` is skipped.
impl<'de> DeserializeSeed<'de> for &mut Table {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(Outer(self))
    }
}

struct Outer<'a>(&'a mut Table);

impl<'de> Visitor<'de> for Outer<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the key \"vectors\"")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "vectors" {
                map.next_value_seed(Vectors(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Vectors<'a>(&'a mut Table);

impl<'de> DeserializeSeed<'de> for Vectors<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Vectors<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from word to array")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(word) = map.next_key::<String>()? {
            self.0.scratch.clear();
            map.next_value_seed(Numbers { limit: self.0.dim + 2, numbers: &mut self.0.scratch })?;
            self.0.insert(word).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// An array of at most `limit` numbers: one more is kept, so that the count is seen to be wrong.
struct Numbers<'a> {
    limit: usize,
    numbers: &'a mut Vec<f64>,
}

impl<'de> DeserializeSeed<'de> for Numbers<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Numbers<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(number) = seq.next_element::<f64>()? {
            if self.numbers.len() <= self.limit {
                self.numbers.push(number);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"size":2,"words":["a","b"],"vectors":{"b":[3,-0.25,9,1],"a":[0.1,2e0,9,0]},"unk":[0]}"#;

    #[test]
    fn words_come_in_order_of_rank() {
        let rows = read(GOOD.as_bytes(), 2, 2).unwrap();
        assert_eq!(rows.ids, [0, 1]);
        assert_eq!(rows.embeddings.into_vec(), [0.1, 2.0, 3.0, -0.25]);
        assert_eq!(rows.attributes[0].column, Column::Text(vec!["a".into(), "b".into()]));
        assert_eq!(rows.attributes[1].column, Column::Int(vec![0, 1]));
    }

    #[test]
    fn what_is_not_of_the_shape_is_refused_with_its_reason() {
        for (from, to, expected) in [
            ("3,-0.25,9,1", "3,9,1", "expected 4 numbers, got 3"),
            ("3,-0.25,9,1", "3,-0.25,9,1,1", "expected 4 numbers, got 5"),
            ("3,-0.25,9,1", "3,-0.25,9,0", "both have rank 0"),
            ("3,-0.25,9,1", "3,-0.25,9,2", "rank 2"),
            ("3,-0.25,9,1", "3,-0.25,9,-1", "rank -1"),
            ("3,-0.25,9,1", "3,-0.25,9,0.5", "rank 0.5"),
            ("3,-0.25,9,1", "1e39,-0.25,9,1", "no finite f32"),
            ("3,-0.25,9,1", "\"3\",-0.25,9,1", "invalid type"),
            ("\"vectors\"", "\"vector\"", "expected 2 words, got 0"),
            ("\"unk\":[0]}", "\"unk\":[0]", "EOF"),
            ("\"unk\":[0]}", "\"unk\":[0]} x", "trailing"),
            ("{\"size\"", "[{\"size\"", "invalid type"),
        ] {
            assert!(GOOD.contains(from));
            let message = read(GOOD.replacen(from, to, 1).as_bytes(), 2, 2).unwrap_err();
            assert!(message.contains(expected), "{to}: {message}");
        }
        assert!(read(GOOD.as_bytes(), 3, 2).unwrap_err().contains("expected 3 words, got 2"));
    }
}
