//! Conditions that a program makes, beside the SQL that says the same, and beside what no SQL says.

mod fixture;
mod published;
mod rows;

use std::sync::Arc;

use annvil::artifact::columns::{self, ATTRIBUTES_FILE};
use annvil::ivf::Refine;
use annvil::loader::{Bound, Condition, Constant, Filter, FilterError, Index, TextTest};
use annvil::vectors::Metric;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BooleanArray, Date32Array, Float32Array, Int16Array, RecordBatch, StringArray};

const ROWS: usize = 300;

fn index() -> Index {
    let each = |part: usize| move |row: &usize| !row.is_multiple_of(part);
    let of = |part: usize| (0..ROWS).map(move |row| Some(row).filter(each(part)));
    let words = ["anvil", "Forge and fire", "l'enclume", "鉄", ""];
    let mut tags = ListBuilder::new(StringBuilder::new());
    for row in 0..ROWS {
        for tag in 0..row % 4 {
            let word = Some(words[(row + tag) % 3]).filter(|_| (row + tag) % 7 > 0);
            tags.values().append_option(word);
        }
        tags.append(row % 11 > 0);
    }
    let batch = RecordBatch::try_from_iter_with_nullable([
        (
            "page",
            Arc::new(of(7).map(|row| row.map(|row| row as i16 % 40)).collect::<Int16Array>()) as ArrayRef,
            true,
        ),
        ("score", Arc::new(of(5).map(|row| row.map(|row| row as f32 / 8.0)).collect::<Float32Array>()), true),
        ("word", Arc::new(of(3).map(|row| row.map(|row| words[row % 5])).collect::<StringArray>()), true),
        ("flag", Arc::new(of(4).map(|row| row.map(|row| row % 3 == 0)).collect::<BooleanArray>()), true),
        ("day", Arc::new(of(6).map(|row| row.map(|row| row as i32 * 30)).collect::<Date32Array>()), true),
        ("tags", Arc::new(tags.finish()), true),
    ])
    .unwrap();
    let rows = rows::normal(ROWS, 3, 1);
    let mut published = published::Published::new("flat", &rows, Metric::L2, Refine::F32);
    published.files.push((ATTRIBUTES_FILE.into(), columns::encode(&batch).unwrap()));
    published.open().unwrap()
}

fn rows_of(index: &Index, filter: &Filter) -> Vec<u32> {
    index.mask(filter).unwrap().iter().collect()
}

fn made(index: &Index, condition: &Condition) -> Vec<u32> {
    rows_of(index, &Filter::of(condition.clone()).unwrap())
}

fn text(text: &str) -> Constant {
    Constant::Text(text.into())
}

fn among(column: &str, constants: Vec<Constant>) -> Condition {
    Condition::Among { column: column.into(), constants }
}

fn compare(column: &str, bounds: Vec<(Bound, Constant)>) -> Condition {
    Condition::Compare { column: column.into(), bounds }
}

fn says(column: &str, test: TextTest) -> Condition {
    Condition::Text { column: column.into(), test }
}

#[test]
fn a_condition_passes_the_rows_that_sql_passes() {
    let index = index();
    let except = |column: &str, constants| Condition::Except { column: column.into(), constants };
    let count = |column: &str, bounds| Condition::Count { column: column.into(), bounds };
    let cases = [
        (among("page", vec![Constant::Int(3), Constant::Int(-1), text("x")]), "page IN (3, -1)"),
        (among("flag", vec![Constant::Bool(true)]), "flag"),
        (among("word", vec![text("l'enclume"), text("")]), "word IN ('l''enclume', '')"),
        (among("tags", vec![text("anvil")]), "'anvil' = ANY(tags)"),
        (among("day", vec![text("1970-03-02"), text("no day")]), "day = '1970-03-02'"),
        (except("page", vec![Constant::Int(3)]), "page <> 3"),
        (except("word", vec![text("anvil")]), "word <> 'anvil'"),
        (
            compare("page", vec![(Bound::AtLeast, Constant::Float(2.5)), (Bound::Below, Constant::Int(9))]),
            "page > 2 AND page < 9",
        ),
        (compare("score", vec![(Bound::AtMost, Constant::Int(4))]), "score <= 4"),
        (compare("day", vec![(Bound::Above, text("1972-01-01"))]), "day > '1972-01-01'"),
        (compare("page", vec![]), "page IS NOT NULL"),
        (says("word", TextTest::Prefix("For".into())), "word LIKE 'For%'"),
        (says("word", TextTest::Substring("n".into())), "contains(word, 'n')"),
        (count("tags", vec![(Bound::AtLeast, 2)]), "cardinality(tags) >= 2"),
        (count("page", vec![(Bound::Below, 1)]), "page IS NULL"),
        (Condition::IsNull { column: "word".into() }, "word IS NULL"),
        (Condition::IsEmpty { column: "tags".into() }, "tags IS NULL OR cardinality(tags) = 0"),
        (Condition::All(vec![]), "TRUE"),
        (Condition::any(vec![]), "FALSE"),
    ];
    for (condition, sql) in &cases {
        let expected = rows_of(&index, &Filter::parse(sql).unwrap());
        assert_eq!(made(&index, condition), expected, "{condition:?} and {sql}");
        assert!(
            sql.len() == 4 || sql.len() == 5 || !expected.is_empty() && expected.len() < ROWS,
            "{sql} says nothing"
        );
        // Where SQL does not know, a program's condition is false, and its negation true.
        let not = rows_of(&index, &Filter::parse(&format!("({sql}) IS NOT TRUE")).unwrap());
        assert_eq!(made(&index, &condition.clone().negated()), not, "NOT {condition:?}");
    }
    let parts: Vec<Condition> = cases[..4].iter().map(|(condition, _)| condition.clone()).collect();
    for least in 0..6 {
        let count = |row: &u32| parts.iter().filter(|part| made(&index, part).contains(row)).count();
        let expected: Vec<u32> = (0..ROWS as u32).filter(|row| count(row) >= least).collect();
        assert_eq!(made(&index, &Condition::AtLeast(least, parts.clone())), expected, "{least}");
    }
}

#[test]
fn other_types_and_missing_columns_pass_nothing_and_ask_no_questions() {
    let index = index();
    for condition in [
        among("page", vec![text("3"), Constant::Float(3.0), Constant::Bool(true)]),
        among("colour", vec![text("red")]),
        compare("word", vec![(Bound::Above, Constant::Int(0))]),
        compare("flag", vec![(Bound::AtLeast, Constant::Int(0))]),
        says("page", TextTest::Substring(String::new())),
        says("word", TextTest::Words(String::new())),
        Condition::Except { column: "colour".into(), constants: vec![] },
        Condition::IsNull { column: "colour".into() },
        Condition::Rows(vec![ROWS as u32, u32::MAX]),
    ] {
        assert_eq!(made(&index, &condition), [0u32; 0], "{condition:?}");
    }
    assert_eq!(made(&index, &Condition::IsEmpty { column: "colour".into() }).len(), ROWS);
    assert_eq!(made(&index, &Condition::Rows(vec![7, 3, 7])), [3, 7]);
}

#[test]
fn words_are_whole_and_caseless_and_a_phrase_has_them_in_order() {
    let index = index();
    let forge = rows_of(&index, &Filter::parse("word = 'Forge and fire'").unwrap());
    for (test, passes) in [
        (TextTest::Words("FIRE forge".into()), true),
        (TextTest::Words("fire for".into()), false),
        (TextTest::Phrase("and FIRE".into()), true),
        (TextTest::Phrase("fire and".into()), false),
        (TextTest::AnyWord("tongs, fire".into()), true),
        (TextTest::AnyWord("tongs".into()), false),
    ] {
        assert_eq!(
            made(&index, &says("word", test.clone())),
            if passes { forge.clone() } else { vec![] },
            "{test:?}"
        );
    }
}

#[test]
fn conditions_and_sql_are_combined_and_never_taken_for_each_other() {
    let index = index();
    let sql = Filter::parse("page < 20").unwrap();
    let condition = Filter::of(among("flag", vec![Constant::Bool(true)])).unwrap();
    let expected = rows_of(&index, &Filter::parse("page < 20 AND flag").unwrap());
    for both in [sql.and(&condition), condition.and(&sql)] {
        assert_eq!(rows_of(&index, &both), expected);
    }
    let two = Filter::of(Condition::Rows(expected[..2].to_vec())).unwrap();
    let three = condition.and(&sql).and(&two);
    assert_eq!(rows_of(&index, &three), expected[..2]);
    assert_eq!(three, condition.and(&sql.and(&two)), "however they are put together");
    // What a condition's text looks like is no SQL.
    assert!(Filter::parse(condition.text()).is_err());
}

#[test]
fn conditions_too_deep_are_refused() {
    let nested = |levels: usize| (0..levels).fold(Condition::All(vec![]), |inner, _| inner.negated());
    assert!(Filter::of(nested(49)).is_ok());
    assert!(matches!(Filter::of(nested(50)), Err(FilterError::Deep { limit: 50, .. })));
}
