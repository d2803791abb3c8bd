//! Points that nobody searches for: by id, page by page, counted, and by their values.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::payload::{Listed, Scored, Selection, WithPayload, WithVector, refuse};
use super::{Asked, filter};
use crate::loader::{Condition, Filter, ROW_ID, json_value};
use crate::serve::limits::FacetRoom;
use crate::serve::points::PointId;
use crate::serve::reply::Reply;
use crate::serve::routes::Call;
use crate::serve::{Fault, Limits};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScrollRequest {
    offset: Option<PointId>,
    limit: Option<usize>,
    filter: Option<Value>,
    with_payload: Option<WithPayload>,
    with_vector: Option<WithVector>,
    order_by: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct RetrieveRequest {
    ids: Vec<PointId>,
    with_payload: Option<WithPayload>,
    with_vector: Option<WithVector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CountRequest {
    filter: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct FacetRequest {
    key: String,
    limit: Option<usize>,
    filter: Option<Value>,
}

#[derive(Serialize)]
struct ScrollResult<'a> {
    points: Listed<'a>,
    next_page_offset: Option<PointId>,
}

/// A stretch of the points in the order of their ids.
pub(super) struct Page {
    pub ordinals: Vec<u32>,
    pub next: Option<u32>,
}

/// Up to `limit` points that pass, from an id on.
pub(super) fn page(
    asked: &Asked,
    filter: Option<&Filter>,
    from: Option<&PointId>,
    limit: usize,
) -> Result<Page, Fault> {
    let Asked { index, points, .. } = asked;
    let mask =
        asked.mask(&filter.map_or_else(|| Filter::of(Condition::All(Vec::new())), |f| Ok(f.clone()))?)?;
    if let Some((_, rows)) = &asked.tenant {
        let passing = rows.iter().copied().filter(|&ordinal| mask.contains(ordinal));
        return first_by_id(asked, passing, from, limit);
    }
    let in_order = points.in_order(index);
    let start = from.map_or(0, |from| in_order.partition_point(|&ordinal| points.id(index, ordinal) < *from));
    let mut passing = in_order[start..].iter().copied().filter(|&ordinal| mask.contains(ordinal));
    let ordinals = passing.by_ref().take(limit).collect();
    Ok(Page { ordinals, next: passing.next() })
}

/// The page of some points that nobody has put in order: one pass over them, and no more kept than the page has.
fn first_by_id(
    asked: &Asked,
    ordinals: impl Iterator<Item = u32>,
    from: Option<&PointId>,
    limit: usize,
) -> Result<Page, Fault> {
    let mut first: BinaryHeap<(PointId, u32)> = BinaryHeap::new();
    for (number, ordinal) in ordinals.enumerate() {
        asked.deadline.check_row(number)?;
        let point = (asked.points.id(&asked.index, ordinal), ordinal);
        if from.is_some_and(|from| point.0 < *from) {
            continue;
        }
        if first.len() <= limit {
            first.push(point);
        } else if let Some(mut last) = first.peek_mut()
            && point < *last
        {
            *last = point;
        }
    }
    let mut ordinals: Vec<u32> = first.into_sorted_vec().into_iter().map(|(_, ordinal)| ordinal).collect();
    let next = (ordinals.len() > limit).then(|| ordinals.pop()).flatten();
    Ok(Page { ordinals, next })
}

fn parsed(filter: Option<&Value>, asked: &Asked, limits: &Limits) -> Result<Option<Filter>, Fault> {
    let given = filter.filter(|filter| !filter.is_null());
    given.map(|filter| filter::parse(filter, asked, limits)).transpose()
}

pub(super) fn scroll(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: ScrollRequest = call.json()?;
    let limits = &call.shared.limits;
    let limit = request.limit.unwrap_or(10);
    limits.check_size(1, limit, 0)?;
    refuse("order_by", request.order_by.as_ref())?;
    let selection =
        Selection::new(&asked.index, request.with_payload.as_ref(), true, request.with_vector.as_ref())?;
    let filter = parsed(request.filter.as_ref(), &asked, limits)?;
    let Page { ordinals, next } = page(&asked, filter.as_ref(), request.offset.as_ref(), limit)?;
    let result = ScrollResult {
        points: Listed::new(&asked, selection, unscored(ordinals), limits)?,
        next_page_offset: next.map(|ordinal| asked.points.id(&asked.index, ordinal)),
    };
    asked.reply(result, limits)
}

fn unscored(ordinals: Vec<u32>) -> Vec<Scored> {
    ordinals.into_iter().map(|ordinal| (ordinal, None)).collect()
}

pub(super) fn retrieve(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: RetrieveRequest = call.json()?;
    let limits = &call.shared.limits;
    limits.check_ids("ids", request.ids.len())?;
    let selection =
        Selection::new(&asked.index, request.with_payload.as_ref(), true, request.with_vector.as_ref())?;
    let ordinals = request.ids.iter().filter_map(|id| asked.ordinal(id)).collect();
    asked.reply(Listed::new(&asked, selection, unscored(ordinals), limits)?, limits)
}

pub(super) fn point(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let ordinal = PointId::parse(call.name(1)).and_then(|id| asked.ordinal(&id));
    let ordinal = ordinal.ok_or_else(|| Fault::NoPoint { id: call.name(1).into() })?;
    let limits = &call.shared.limits;
    let with_vector = WithVector::All(asked.index.keeps_vectors());
    let selection = Selection::new(&asked.index, None, true, Some(&with_vector))?;
    asked.reply(Listed::new(&asked, selection, unscored(vec![ordinal]), limits)?.only(), limits)
}

pub(super) fn count(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: CountRequest = call.json()?;
    let limits = &call.shared.limits;
    let count = match parsed(request.filter.as_ref(), &asked, limits)? {
        Some(filter) => asked.mask(&filter)?.count(),
        None => asked.count(),
    };
    asked.reply(json!({ "count": count }), limits)
}

/// How many points have each value of an attribute of strings, integers, booleans or UUIDs; most frequent first.
pub(super) fn facet(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: FacetRequest = call.json()?;
    let limits = &call.shared.limits;
    let limit = request.limit.unwrap_or(10);
    limits.check_size(1, limit, 0)?;
    let filter = parsed(request.filter.as_ref(), &asked, limits)?;
    let filter = filter.map_or_else(|| Filter::of(Condition::All(Vec::new())), Ok)?;
    let mask = asked.mask(&filter)?;
    let mut counts: BTreeMap<FacetValue, usize> = BTreeMap::new();
    if let Some(column) = attribute(&asked, &request.key)? {
        let mut room = FacetRoom::of(limits);
        for (number, ordinal) in mask.iter().enumerate() {
            asked.deadline.check_row(number)?;
            // A list counts once for each of its values.
            let values: HashSet<FacetValue> = values(&column, ordinal as usize)?.into_iter().collect();
            for value in values {
                match counts.entry(value) {
                    Entry::Occupied(mut count) => *count.get_mut() += 1,
                    Entry::Vacant(place) => {
                        room.take(place.key().size_bytes())?;
                        place.insert(1);
                    }
                }
            }
        }
    }
    let mut hits: Vec<(FacetValue, usize)> = counts.into_iter().collect();
    // A stable sort: of the same count, by value.
    hits.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    hits.truncate(limit);
    let hits: Vec<Value> =
        hits.into_iter().map(|(value, count)| json!({ "value": value, "count": count })).collect();
    asked.reply(json!({ "hits": hits }), limits)
}

/// A value that points can be counted or grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(super) enum FacetValue {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Text(String),
}

impl FacetValue {
    fn size_bytes(&self) -> usize {
        let text = if let FacetValue::Text(text) = self { text.len() } else { 0 };
        size_of::<Self>() + text
    }
}

/// The attribute that a key names, or the row ids.
pub(super) fn attribute(asked: &Asked, key: &str) -> Result<Option<ArrayRef>, Fault> {
    let name = filter::column(key)?;
    let index = &asked.index;
    let column = index.attributes().and_then(|batch| batch.column_by_name(&name)).cloned();
    Ok(column.or_else(|| (name == ROW_ID).then(|| index.ids().to_array())))
}

/// A row's values, those of its list if it has one; none for nulls, fractions and times.
pub(super) fn values(column: &ArrayRef, row: usize) -> Result<Vec<FacetValue>, Fault> {
    let as_times = column.data_type().is_temporal();
    if as_times || column.is_null(row) {
        return Ok(Vec::new());
    }
    if let Some(lists) = column.as_list_opt::<i32>() {
        let items = lists.value(row);
        let of_items = (0..items.len()).map(|item| values(&items, item)).collect::<Result<Vec<_>, _>>()?;
        return Ok(of_items.into_iter().flatten().collect());
    }
    let value = json_value(column, row).map_err(|_| Fault::Internal)?;
    Ok(match value {
        Value::Bool(value) => vec![FacetValue::Bool(value)],
        Value::String(text) => vec![FacetValue::Text(text)],
        Value::Number(number) => {
            let large = || number.as_u64().map(FacetValue::UInt);
            number.as_i64().map(FacetValue::Int).or_else(large).into_iter().collect()
        }
        _ => Vec::new(),
    })
}
