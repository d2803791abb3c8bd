//! Filters against their definition row by row, against polars, and against what cannot be answered.

mod fixture;
mod published;
mod rows;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use annvil::artifact::columns::{self, ATTRIBUTES_FILE, IDS_FILE};
use annvil::ivf::Refine;
use annvil::loader::{Filter, FilterError, Index, Position};
use annvil::vectors::{Metric, Random, RowIds};
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::{Float32Type, Int32Type, UInt64Type};
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, PrimitiveArray, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use proptest::prelude::*;
use published::{Published, text_ids};

const ROWS: usize = 700;

/// A row as a person would write it down.
#[derive(Debug, Clone)]
struct Row {
    lang: Option<&'static str>,
    year: Option<i32>,
    score: Option<f64>,
    weight: Option<f32>,
    large: Option<u64>,
    public: Option<bool>,
    seen_ms: Option<i64>,
    tags: Option<Vec<Option<&'static str>>>,
}

const WORDS: [&str; 6] = ["en", "de", "", "e%", "En_x", "déjà"];
const DAY_MS: i64 = 86_400_000;

fn table() -> Vec<Row> {
    let mut random = Random::new(3);
    let mut row = |_| {
        let mut some = |of: usize| (random.below(5) > 0).then(|| random.below(of));
        Row {
            lang: some(6).map(|word| WORDS[word]),
            year: some(8).map(|year| 2018 + year as i32),
            score: some(9)
                .map(|score| [0.0, -0.0, 0.5, -1.5, 2.0, 1e300, f64::NAN, f64::INFINITY, 0.1][score]),
            weight: some(4).map(|weight| [0.1, 0.5, -2.0, 3e38][weight]),
            large: some(4).map(|large| [0, 7, u64::MAX, 1 << 53][large]),
            public: some(2).map(|public| public == 1),
            seen_ms: some(6).map(|day| (day as i64 - 2) * DAY_MS + day as i64 % 2 * 500),
            tags: some(4)
                .map(|count| (0..count).map(|_| some(7).and_then(|word| WORDS.get(word)).copied()).collect()),
        }
    };
    (0..ROWS).map(&mut row).collect()
}

fn attributes(table: &[Row]) -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in table {
        match &row.tags {
            Some(words) => tags.append_value(words.iter().copied()),
            None => tags.append_null(),
        }
    }
    let seen: TimestampMillisecondArray = table.iter().map(|row| row.seen_ms).collect();
    let columns: [(&str, ArrayRef); 8] = [
        ("lang", Arc::new(table.iter().map(|row| row.lang).collect::<StringArray>())),
        ("year", Arc::new(table.iter().map(|row| row.year).collect::<PrimitiveArray<Int32Type>>())),
        ("score", Arc::new(table.iter().map(|row| row.score).collect::<Float64Array>())),
        ("weight", Arc::new(table.iter().map(|row| row.weight).collect::<PrimitiveArray<Float32Type>>())),
        ("large", Arc::new(table.iter().map(|row| row.large).collect::<PrimitiveArray<UInt64Type>>())),
        ("public", Arc::new(table.iter().map(|row| row.public).collect::<BooleanArray>())),
        ("seen", Arc::new(seen)),
        ("tags", Arc::new(tags.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn publish(attributes: &RecordBatch, ids: &RowIds) -> Index {
    let rows = attributes.num_rows();
    let mut published = Published::new("flat", &rows::normal(rows, 2, 1), Metric::L2, Refine::F32);
    published.files.retain(|(name, _)| name != IDS_FILE);
    published.files.push((IDS_FILE.into(), columns::encode_ids(ids).unwrap()));
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(attributes).unwrap()));
    published.open().unwrap()
}

/// The rows of `table()`, with ids `row <number>`.
fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| publish(&attributes(&table()), &text_ids((0..ROWS).map(|row| format!("row {row}")))))
}

fn passing(index: &Index, filter: &str) -> Vec<u32> {
    let filter = Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
    let mask = index.mask(&filter).unwrap_or_else(|error| panic!("{}: {error}", filter.text()));
    mask.iter().collect()
}

fn refused(filter: &str) -> FilterError {
    let parsed = Filter::parse(filter);
    parsed.and_then(|filter| index().mask(&filter)).expect_err(filter)
}

/// A condition, its text and its meaning.
#[derive(Debug, Clone)]
enum Condition {
    Compare(&'static str, &'static str, String),
    Flipped(String, &'static str, &'static str),
    Columns(&'static str, &'static str, &'static str),
    Between(&'static str, bool, String, String),
    In(&'static str, bool, Vec<String>),
    Null(&'static str, bool),
    Like(bool, bool, String),
    HasTag(bool, String),
    Public,
    Is(Box<Condition>, &'static str),
    Not(Box<Condition>),
    Both(Box<Condition>, Box<Condition>),
    Either(Box<Condition>, Box<Condition>),
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = |not: &bool| if *not { "NOT " } else { "" };
        match self {
            Self::Compare(column, op, literal) => write!(f, "{column} {op} {literal}"),
            Self::Flipped(literal, op, column) => write!(f, "{literal} {op} {column}"),
            Self::Columns(left, op, right) => write!(f, "{left} {op} {right}"),
            Self::Between(column, negated, low, high) => {
                write!(f, "{column} {}BETWEEN {low} AND {high}", not(negated))
            }
            Self::In(column, negated, list) => write!(f, "{column} {}IN ({})", not(negated), list.join(", ")),
            Self::Null(column, negated) => write!(f, "{column} IS {}NULL", not(negated)),
            Self::Like(negated, caseless, pattern) => {
                write!(f, "lang {}{} '{pattern}'", not(negated), if *caseless { "ILIKE" } else { "LIKE" })
            }
            Self::HasTag(true, word) => write!(f, "'{word}' = ANY(tags)"),
            Self::HasTag(false, word) => write!(f, "array_contains(tags, '{word}')"),
            Self::Public => f.write_str("public"),
            Self::Is(inner, what) => write!(f, "({inner}) IS {what}"),
            Self::Not(inner) => write!(f, "NOT ({inner})"),
            Self::Both(a, b) => write!(f, "({a}) AND ({b})"),
            Self::Either(a, b) => write!(f, "({a}) OR ({b})"),
        }
    }
}

/// A value, or none; text holds times too, as they are compared.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(f64),
    Text(String),
    Time(i64),
}

fn value(row: &Row, column: &str) -> Option<Value> {
    match column {
        "lang" => row.lang.map(|text| Value::Text(text.into())),
        "year" => row.year.map(|year| Value::Number(year.into())),
        "score" => row.score.map(Value::Number),
        "weight" => row.weight.map(|weight| Value::Number(weight.into())),
        // Of the values in use only the largest is rounded, and it has no neighbour.
        "large" => row.large.map(|large| Value::Number(large as f64)),
        "seen" => row.seen_ms.map(Value::Time),
        _ => unreachable!("{column}"),
    }
}

fn constant(literal: &str, column: &str) -> Option<Value> {
    if literal == "NULL" {
        return None;
    }
    let text = literal.trim_start_matches("TIMESTAMP ").trim_matches('\'');
    Some(match column {
        "lang" => Value::Text(text.into()),
        "seen" => Value::Time(match text {
            "1970-01-01" => 0,
            "1969-12-31T00:00:00" => -DAY_MS,
            "1970-01-02 00:00:00.5" => DAY_MS + 500,
            "1970-01-03T02:00:00+02:00" => 2 * DAY_MS,
            _ => unreachable!("{text}"),
        }),
        "weight" => Value::Number(f64::from(text.parse::<f32>().unwrap())),
        _ => Value::Number(text.parse().unwrap()),
    })
}

fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_nan() || b.is_nan() => a.is_nan().cmp(&b.is_nan()),
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b).unwrap(),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        _ => unreachable!("{a:?} and {b:?}"),
    }
}

fn holds(op: &str, order: Ordering) -> bool {
    match op {
        "=" => order == Ordering::Equal,
        "<>" | "!=" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        ">=" => order != Ordering::Less,
        _ => unreachable!("{op}"),
    }
}

fn like(text: &[char], pattern: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('%', rest)) => (0..=text.len()).any(|skipped| like(&text[skipped..], rest)),
        Some((&wanted, rest)) => text
            .split_first()
            .is_some_and(|(&first, others)| (wanted == '_' || wanted == first) && like(others, rest)),
    }
}

fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
    match (a, b) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

impl Condition {
    fn of(&self, row: &Row) -> Option<bool> {
        let compare = |a: Option<Value>, op: &str, b: Option<Value>| Some(holds(op, order(&a?, &b?)));
        let negate = |negated: bool, truth: Option<bool>| truth.map(|truth| truth != negated);
        match self {
            Self::Compare(column, op, literal) => compare(value(row, column), op, constant(literal, column)),
            Self::Flipped(literal, op, column) => compare(constant(literal, column), op, value(row, column)),
            Self::Columns(left, op, right) => compare(value(row, left), op, value(row, right)),
            Self::Between(column, negated, low, high) => negate(
                *negated,
                and(
                    compare(value(row, column), ">=", constant(low, column)),
                    compare(value(row, column), "<=", constant(high, column)),
                ),
            ),
            Self::In(column, negated, list) => {
                let among = |truth: Option<bool>, literal: &String| {
                    let same = compare(value(row, column), "=", constant(literal, column));
                    and(truth.map(|truth| !truth), same.map(|same| !same)).map(|neither| !neither)
                };
                negate(*negated, list.iter().fold(Some(false), among))
            }
            Self::Null(column, negated) => {
                let is_null = match *column {
                    "tags" => row.tags.is_none(),
                    "public" => row.public.is_none(),
                    _ => value(row, column).is_none(),
                };
                Some(is_null != *negated)
            }
            Self::Like(negated, caseless, pattern) => {
                let fold = |text: &str| match caseless {
                    true => text.to_lowercase().chars().collect::<Vec<char>>(),
                    false => text.chars().collect(),
                };
                negate(*negated, row.lang.map(|lang| like(&fold(lang), &fold(pattern))))
            }
            Self::HasTag(_, word) => row.tags.as_ref().map(|tags| tags.contains(&Some(word))),
            Self::Public => row.public,
            Self::Is(inner, what) => Some(match *what {
                "TRUE" => inner.of(row) == Some(true),
                "NOT TRUE" => inner.of(row) != Some(true),
                "FALSE" => inner.of(row) == Some(false),
                "NOT FALSE" => inner.of(row) != Some(false),
                "UNKNOWN" | "NULL" => inner.of(row).is_none(),
                _ => inner.of(row).is_some(),
            }),
            Self::Not(inner) => inner.of(row).map(|truth| !truth),
            Self::Both(a, b) => and(a.of(row), b.of(row)),
            Self::Either(a, b) => and(a.of(row).map(|a| !a), b.of(row).map(|b| !b)).map(|neither| !neither),
        }
    }
}

const OPS: [&str; 7] = ["=", "<>", "!=", "<", "<=", ">", ">="];

/// Constants that fit each column.
fn literals(column: &str) -> &'static [&'static str] {
    match column {
        "lang" => &["'en'", "''", "'e%'", "'déjà'", "'zz'", "NULL"],
        "year" => &["2020", "2020.5", "-1", "2021.0", "99999999999", "NULL"],
        "score" => &["0", "0.5", "-1.5", "0.1", "2", "1e300", "NULL"],
        "weight" => &["0.1", "0.5", "-2", "0"],
        "large" => &["0", "7", "18446744073709551615", "9007199254740992", "6.5", "-3"],
        "seen" => &[
            "'1970-01-01'",
            "TIMESTAMP '1969-12-31T00:00:00'",
            "'1970-01-02 00:00:00.5'",
            "'1970-01-03T02:00:00+02:00'",
            "NULL",
        ],
        _ => unreachable!("{column}"),
    }
}

fn typed_literals() -> impl Strategy<Value = (&'static str, Vec<String>)> {
    prop::sample::select(vec!["lang", "year", "score", "weight", "large", "seen"]).prop_flat_map(|column| {
        let literal = prop::sample::select(literals(column)).prop_map(str::to_string);
        (Just(column), prop::collection::vec(literal, 2..5))
    })
}

fn conditions(leaf: BoxedStrategy<Condition>) -> impl Strategy<Value = Condition> {
    leaf.prop_recursive(4, 12, 2, |inner| {
        let pair = || (inner.clone(), inner.clone());
        prop_oneof![
            inner.clone().prop_map(|a| Condition::Not(a.into())),
            pair().prop_map(|(a, b)| Condition::Both(a.into(), b.into())),
            pair().prop_map(|(a, b)| Condition::Either(a.into(), b.into())),
        ]
    })
}

fn any_leaf() -> BoxedStrategy<Condition> {
    let op = || prop::sample::select(&OPS[..]);
    let words = || prop::sample::select(vec!["en", "de", "e%", "%", "_n", "", "%j_", "EN%", "zz"]);
    let like_column = prop::sample::select(vec![
        ("year", "score"),
        ("large", "year"),
        ("weight", "score"),
        ("score", "large"),
        ("lang", "lang"),
        ("seen", "seen"),
    ]);
    prop_oneof![
        (typed_literals(), op()).prop_map(|((column, list), op)| Condition::Compare(
            column,
            op,
            list[0].clone()
        )),
        (typed_literals(), op()).prop_map(|((column, list), op)| Condition::Flipped(
            list[0].clone(),
            op,
            column
        )),
        (like_column, op()).prop_map(|((a, b), op)| Condition::Columns(a, op, b)),
        (typed_literals(), any::<bool>()).prop_map(|((column, list), not)| Condition::Between(
            column,
            not,
            list[0].clone(),
            list[1].clone()
        )),
        (typed_literals(), any::<bool>()).prop_map(|((column, list), not)| Condition::In(column, not, list)),
        (prop::sample::select(vec!["lang", "year", "seen", "tags", "public"]), any::<bool>())
            .prop_map(|(column, not)| Condition::Null(column, not)),
        (any::<bool>(), any::<bool>(), words()).prop_map(|(not, caseless, pattern)| Condition::Like(
            not,
            caseless,
            pattern.into()
        )),
        (any::<bool>(), words()).prop_map(|(any, word)| Condition::HasTag(any, word.into())),
        Just(Condition::Public),
        (
            Just(Condition::Public),
            prop::sample::select(vec![
                "TRUE",
                "NOT TRUE",
                "FALSE",
                "NOT FALSE",
                "UNKNOWN",
                "NOT UNKNOWN",
                "NULL"
            ])
        )
            .prop_map(|(inner, what)| Condition::Is(inner.into(), what)),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_passes_the_rows_that_its_definition_passes(condition in conditions(any_leaf())) {
        let expected: Vec<u32> = (0u32..).zip(&table()).filter(|(_, row)| condition.of(row) == Some(true)).map(|(row, _)| row).collect();
        prop_assert_eq!(passing(index(), &condition.to_string()), expected, "{}", condition);
    }

    /// Whatever is thrown at it.
    #[test]
    fn no_text_makes_a_filter_panic(
        text in r#"(\(|\)|NOT |AND |OR |year|lang|tags|public|row_id|=|<|>|'en'|2020|NULL| IS |IN |BETWEEN |LIKE |ANY|,|\[|\]|-|"|'|::|\.|\*|SELECT |CASE |END |;|--|/\*){0,30}"#,
    ) {
        if let Ok(filter) = Filter::parse(&text) {
            let _ = index().mask(&filter);
        }
    }
}

#[cfg(feature = "polars")]
mod beside_polars {
    use polars::prelude::*;

    use super::*;

    fn frame() -> DataFrame {
        let table = table();
        let tags = |row: &Row| {
            row.tags.as_ref().map(|tags| tags.iter().copied().collect::<StringChunked>().into_series())
        };
        let mut lists: ListChunked = table.iter().map(tags).collect();
        lists.rename("tags".into());
        let columns = vec![
            Column::new("row".into(), (0..ROWS as u32).collect::<Vec<_>>()),
            Column::new("lang".into(), table.iter().map(|row| row.lang).collect::<Vec<_>>()),
            Column::new("year".into(), table.iter().map(|row| row.year).collect::<Vec<_>>()),
            Column::new("score".into(), table.iter().map(|row| row.score).collect::<Vec<_>>()),
            Column::new("public".into(), table.iter().map(|row| row.public).collect::<Vec<_>>()),
            lists.into_series().into(),
        ];
        DataFrame::new(ROWS, columns).unwrap()
    }

    /// What both know: polars has its own idea of NULL in a list, and of strings beside times.
    fn leaf() -> BoxedStrategy<Condition> {
        let literals = prop::sample::select(vec!["lang", "year", "score"]).prop_flat_map(|column| {
            let known: Vec<&str> = literals(column)
                .iter()
                .copied()
                .filter(|&literal| !["NULL", "99999999999", "1e300"].contains(&literal))
                .collect();
            (Just(column), prop::collection::vec(prop::sample::select(known).prop_map(str::to_string), 2..5))
        });
        let op = prop::sample::select(&OPS[..]);
        prop_oneof![
            (literals.clone(), op).prop_map(|((column, list), op)| Condition::Compare(
                column,
                op,
                list[0].clone()
            )),
            (literals, any::<bool>()).prop_map(|((column, list), not)| Condition::Between(
                column,
                not,
                list[0].clone(),
                list[1].clone()
            )),
            (
                prop::collection::vec(
                    prop::sample::select(vec!["'en'", "'e%'", "''"]).prop_map(str::to_string),
                    1..4
                ),
                any::<bool>()
            )
                .prop_map(|(list, not)| Condition::In("lang", not, list)),
            (prop::sample::select(vec!["lang", "year", "tags"]), any::<bool>())
                .prop_map(|(column, not)| Condition::Null(column, not)),
            (any::<bool>(), prop::sample::select(vec!["e%", "%n", "_n", "%", "%j_"]))
                .prop_map(|(not, pattern)| Condition::Like(not, false, pattern.into())),
            prop::sample::select(vec!["en", "de", "zz"])
                .prop_map(|word| Condition::HasTag(false, word.into())),
            Just(Condition::Public),
        ]
        .boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() })]

        #[test]
        fn a_filter_passes_the_rows_that_polars_passes(condition in conditions(leaf())) {
            let text = condition.to_string();
            let kept = frame().lazy().filter(polars::sql::sql_expr(&text).unwrap()).collect().unwrap();
            let expected: Vec<u32> = kept.column("row").unwrap().u32().unwrap().iter().flatten().collect();
            prop_assert_eq!(passing(index(), &text), expected, "{}", text);
        }
    }
}

#[test]
fn the_example_of_the_documentation_is_understood() {
    let filter = "lang = 'en' AND year BETWEEN 2020 AND 2024 AND lang IN ('en', 'de')";
    let expected: Vec<u32> = (0u32..)
        .zip(&table())
        .filter(|(_, row)| {
            row.lang == Some("en") && row.year.is_some_and(|year| (2020..=2024).contains(&year))
        })
        .map(|(row, _)| row)
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(passing(index(), filter), expected);
}

#[test]
fn lists_are_asked_for_some_and_for_all_and_for_their_length() {
    let expected = |is: &dyn Fn(&[Option<&str>]) -> bool| -> Vec<u32> {
        let table = table();
        (0u32..)
            .zip(&table)
            .filter(|(_, row)| row.tags.as_deref().is_some_and(is))
            .map(|(row, _)| row)
            .collect()
    };
    let has = |tags: &[Option<&str>], word| tags.contains(&Some(word));
    let any = expected(&|tags| has(tags, "en") || has(tags, "de"));
    let all = expected(&|tags| has(tags, "en") && has(tags, "de"));
    assert!(any.len() > all.len() && !all.is_empty());
    assert_eq!(passing(index(), "array_has_any(tags, ['en', 'de'])"), any);
    assert_eq!(passing(index(), "array_has_any(tags, ARRAY['en', 'de'])"), any);
    assert_eq!(passing(index(), "array_has_all(tags, ['en', 'de'])"), all);
    assert_eq!(passing(index(), "array_has(tags, 'en') AND list_has(tags, 'de')"), all);
    assert_eq!(passing(index(), "'en' <> ALL(tags)"), expected(&|tags| !has(tags, "en")));
    assert_eq!(passing(index(), "cardinality(tags) = 0"), expected(&|tags| tags.is_empty()));
    assert_eq!(passing(index(), "array_length(tags) > 1"), expected(&|tags| tags.len() > 1));
}

#[test]
fn ids_are_found_by_prefix_and_like_any_column() {
    let of = |filter: Filter| index().mask(&filter).unwrap().iter().collect::<Vec<u32>>();
    let expected: Vec<u32> =
        (0..ROWS as u32).filter(|row| format!("row {row}").starts_with("row 12")).collect();
    assert_eq!(of(Filter::id_prefix("row 12").unwrap()), expected);
    assert_eq!(of(Filter::id_prefix("it's").unwrap()), [0; 0]);
    assert_eq!(passing(index(), "row_id IN ('row 5', 'row 3', 'row x')"), [3, 5]);
    let even_years = Filter::parse("year = 2020 OR year = 2022").unwrap();
    let both = of(Filter::id_prefix("row 1").unwrap().and(&even_years));
    let years = of(even_years);
    assert!(!both.is_empty() && both.len() < years.len() && both.iter().all(|row| years.contains(row)));

    let small = attributes(&table()[..3]);
    let numbers = publish(&small, &RowIds::from(vec![7i64, -2, 40]));
    assert_eq!(passing(&numbers, "row_id < 10"), [0, 1]);
    let error = numbers.mask(&Filter::id_prefix("4").unwrap()).unwrap_err();
    assert!(matches!(&error, FilterError::Type { got, .. } if got == "an integer `row_id`"), "{error}");
    let uuids = publish(&small, &RowIds::from(vec![[0xab; 16], [1; 16], [0xac; 16]]));
    assert_eq!(passing(&uuids, "row_id = 'abababab-abab-abab-abab-abababababab'"), [0]);
    assert_eq!(passing(&uuids, "starts_with(row_id, 'a')"), [0, 2]);
    assert_eq!(
        passing(
            &uuids,
            "row_id IN ('abababababababababababababababab', '01010101-0101-0101-0101-010101010101')"
        ),
        [0, 1]
    );
}

#[test]
fn filters_that_are_combined_stay_what_each_is() {
    let filter = |text: &str| Filter::parse(text).unwrap();
    let rows = |filter: &Filter| index().mask(filter).unwrap().iter().collect::<BTreeSet<u32>>();
    for (one, other) in [
        ("year = 2020 --", "lang = 'en'\nOR lang = 'de'"),
        ("year = 2020 OR year = 2021", "lang = 'en' OR lang = 'de'"),
    ] {
        let (one, other) = (filter(one), filter(other));
        let expected = &rows(&one) & &rows(&other);
        assert!(!expected.is_empty(), "{one:?} and {other:?}");
        assert_eq!(rows(&one.and(&other)), expected, "{one:?} and {other:?}");
    }
    // Each is within the limits of one text.
    let long = |year: u32| filter(&vec![format!("year = {year}"); 600].join(" OR "));
    assert_eq!(rows(&long(2020).and(&filter("TRUE")).and(&long(2020))), rows(&filter("year = 2020")));
    assert_eq!(rows(&long(2020).and(&long(2021))), BTreeSet::new());
    let many = (0..500).fold(filter("year = 2020"), |all, _| all.and(&filter("TRUE")));
    assert_eq!(rows(&many), rows(&filter("year = 2020")));
}

#[test]
fn names_are_taken_as_written_then_in_any_case() {
    let column = |values: [i32; 2]| Arc::new(Int32Array::from(values.to_vec())) as ArrayRef;
    let batch = RecordBatch::try_from_iter([
        ("Year", column([1, 2])),
        ("a.b", column([3, 4])),
        ("select", column([5, 6])),
        ("row_id", column([7, 8])),
    ])
    .unwrap();
    let index = publish(&batch, &text_ids(["x", "y"].map(String::from).into_iter()));
    for filter in
        ["Year = 2", "year = 2", "\"Year\" = 2", "a.b = 4", "\"a.b\" = 4", "\"select\" = 6", "row_id = 8"]
    {
        assert_eq!(passing(&index, filter), [1], "{filter}");
    }
    assert!(matches!(index.mask(&Filter::parse("\"year\" = 2").unwrap()), Err(FilterError::Column { .. })));
}

#[test]
fn what_cannot_be_answered_is_named_with_its_place() {
    let at = |character| Position { line: 1, character };
    let error = refused("lang = 'en' AND yaer > 2020");
    assert!(
        matches!(&error, FilterError::Column { at: place, column, known }
        if *place == at(17) && column == "yaer" && known.contains("`year` (integer)") && known.contains("`row_id` (string)")),
        "{error}"
    );
    let error = refused("public AND\n  year = 'x'");
    let expected = "filter at line 2, character 3: expected an integer to compare `year` with, got a string";
    assert_eq!(error.to_string(), expected);
    for (filter, got) in [
        ("lang > 3", "an integer"),
        ("public = 1", "an integer"),
        ("score = 'x'", "a string"),
        ("year IN (1, 'x')", "a string"),
        ("seen > 5", "an integer"),
        ("seen > 'yesterday'", "'yesterday'"),
        ("tags = 'x'", "a string"),
        ("lang = year", "integer `year`"),
        ("year", "an integer `year`"),
        ("year AND public", "an integer `year`"),
        ("year LIKE '2%'", "an integer `year`"),
        ("'x' = ANY(lang)", "a string `lang`"),
        ("3 = ANY(tags)", "an integer"),
        ("1 = 1", "1 and 1"),
        ("lang LIKE lang", "column `lang` in this place"),
        ("year IN (year)", "column `year` in this place"),
        ("lang LIKE 3", "an integer"),
        ("tags IN ('x')", "the list `tags`"),
        ("cardinality(lang) = 1", "a string `lang`"),
        ("array_has_any(tags, 'x')", "constant `'x'` in this place"),
    ] {
        let error = refused(filter);
        assert!(matches!(&error, FilterError::Type { got: named, .. } if named == got), "{filter}: {error}");
    }
    for filter in [
        "year + 1 = 2",
        "year IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "lower(lang) = 'en'",
        "CASE WHEN public THEN 1 END = 1",
        "lang || 'x' = 'enx'",
        "year = 1e999",
        "lang = X'00'",
        "year::text = '2020'",
        "lang LIKE 'a' ESCAPE 'b'",
        "'x' < ANY(tags)",
        "count(*) > 1",
        "starts_with(lang)",
        "2020",
        "-lang = 3",
        "year & 1 = 1",
        "lang SIMILAR TO 'x'",
        "INTERVAL '1' DAY = 3",
        "array_has(DISTINCT tags, 'x')",
    ] {
        let error = refused(filter);
        assert!(
            matches!(error, FilterError::Unsupported { .. } | FilterError::Type { .. }),
            "{filter}: {error:?}"
        );
    }
    for filter in [
        "",
        "  ",
        "lang =",
        "lang = 'en",
        "(public",
        "public)",
        "public, year",
        "public public",
        "lang = 'a'; DROP TABLE x",
        "\u{0}",
    ] {
        assert!(matches!(Filter::parse(filter), Err(FilterError::Syntax(_))), "{filter}");
    }
}

#[test]
fn no_filter_is_too_much() {
    let many = |part: &str, count: usize| vec![part; count].join(" OR ");
    assert_eq!(passing(index(), &many("public", 900)), passing(index(), "public"));
    assert!(matches!(Filter::parse(&many("public", 5000)), Err(FilterError::Complex { .. })));
    assert!(matches!(Filter::parse(&"x".repeat(2 << 20)), Err(FilterError::Long { .. })));
    let list = (0..50_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(passing(index(), &format!("year IN ({list})")), passing(index(), "year IS NOT NULL"));
    for (open, close) in [("(", ")"), ("NOT ", ""), ("((", "))")] {
        let nested = |depth: usize| format!("{}public{}", open.repeat(depth), close.repeat(depth));
        assert_eq!(passing(index(), &nested(10)), passing(index(), "public"));
        for depth in [100, 900, 100_000] {
            assert!(Filter::parse(&nested(depth)).is_err());
        }
    }
    let deep = format!("public{}", " IS TRUE".repeat(900));
    assert!(matches!(refused(&deep), FilterError::Deep { .. }));
    let chain = format!("year{}", " = 1".repeat(1900));
    assert!(matches!(refused(&chain), FilterError::Unsupported { .. }));
}

#[test]
fn a_time_without_a_zone_is_in_the_columns() {
    let stamps = TimestampMillisecondArray::from(vec![0, 2 * 3_600_000]).with_timezone("+02:00");
    let batch = RecordBatch::try_from_iter([("seen", Arc::new(stamps) as ArrayRef)]).unwrap();
    let index = publish(&batch, &RowIds::from(vec![1u64, 2]));
    assert_eq!(passing(&index, "seen = '1970-01-01T02:00:00'"), [0]);
    assert_eq!(passing(&index, "seen = '1970-01-01T02:00:00Z'"), [1]);
    assert_eq!(passing(&index, "seen > '1970-01-01'"), [0, 1]);
    assert_eq!(passing(&index, "seen >= '1970-01-01T04:00:00' AND seen <= DATE '1970-01-02'"), [1]);
}
