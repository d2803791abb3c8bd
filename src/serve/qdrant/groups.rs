//! `points/query/groups`: the nearest points of each of the nearest groups.
//!
//! First the nearest points are looked at, more and more of them, until enough groups have been seen; then each group that
//! has room left is searched alone. So every group that is returned is whole; one whose nearest point lies behind as many points
//! of others as a search may return is not seen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow_array::ArrayRef;
use serde::{Deserialize, Serialize};

use super::payload::{Listed, Selection, refuse, score};
use super::query::{QueryRequest, Wanted, search};
use super::scroll::{FacetValue, attribute, values};
use super::{Asked, filter};
use crate::loader::{Condition, Constant, Filter, Match, Query};
use crate::serve::Fault;
use crate::serve::reply::Reply;
use crate::serve::routes::Call;

#[derive(Debug, Deserialize)]
struct GroupsRequest {
    group_by: String,
    group_size: Option<usize>,
    with_lookup: Option<serde::de::IgnoredAny>,
    #[serde(flatten)]
    query: QueryRequest,
}

#[derive(Serialize)]
struct Groups<'a> {
    groups: Vec<GroupResult<'a>>,
}

#[derive(Serialize)]
struct GroupResult<'a> {
    id: FacetValue,
    hits: Listed<'a>,
}

struct Group {
    id: FacetValue,
    hits: Vec<Match>,
}

/// A search that is asked again and again, for more rows or for fewer.
struct Search<'a> {
    call: &'a Call,
    asked: &'a Asked,
    vector: Vec<f32>,
    query: Query,
    filter: Option<Filter>,
}

pub(super) fn groups(call: &Call) -> Result<Reply, Fault> {
    let asked = Asked::new(call)?;
    let request: GroupsRequest = call.json()?;
    let limits = &call.shared.limits;
    let (wanted, size) = (request.query.limit(), request.group_size.unwrap_or(3));
    limits.check_size(wanted, size, 0)?;
    request.query.check()?;
    refuse("with_lookup", request.with_lookup.as_ref())?;
    let (payload, vector) = (request.query.with_payload.as_ref(), request.query.with_vector.as_ref());
    let selection = Selection::new(&asked.index, payload, false, vector)?;
    let Wanted { target, mmr } = request.query.query.as_ref().ok_or(Fault::Unsupported {
        what: "grouping without a query".into(),
        allowed: "`query`: a vector or a point's id",
    })?;
    if mmr.is_some() {
        return Err(Fault::Unsupported { what: "`mmr` of groups".into(), allowed: "leaving it out" });
    }
    let (vector, query) = target.resolved(&asked, request.query.searching(&asked))?;
    let filter = request.query.filter(&asked, limits)?;
    let found = match attribute(&asked, &request.group_by)? {
        None => Vec::new(),
        Some(column) => {
            let search = Search { call, asked: &asked, vector, query, filter };
            let mut groups = search.nearest_groups(&column, wanted, size)?;
            let name = filter::column(&request.group_by)?;
            groups.iter_mut().try_for_each(|group| search.fill(group, &name, size))?;
            groups
        }
    };
    let metric = asked.index.metric();
    let scored = |hit: &Match| (hit.ordinal, Some(score(metric, hit.distance)));
    let lists = found.iter().map(|group| group.hits.iter().map(scored).collect()).collect();
    let lists = Listed::several(&asked, &selection, lists, limits)?;
    let groups = found.into_iter().zip(lists).map(|(Group { id, .. }, hits)| GroupResult { id, hits });
    asked.reply(Groups { groups: groups.collect() }, limits)
}

impl Search<'_> {
    /// The groups of the nearest points, by their nearest, with the points seen on the way.
    fn nearest_groups(&self, column: &ArrayRef, wanted: usize, size: usize) -> Result<Vec<Group>, Fault> {
        let most = self.call.shared.limits.k.min(self.asked.index.rows());
        let mut k = wanted.saturating_mul(size).saturating_mul(2).min(most);
        loop {
            let found = self.nearest(k, self.filter.clone())?;
            let groups = grouped(&found, column, wanted, size)?;
            if groups.len() == wanted || found.len() < k || k == most {
                return Ok(groups);
            }
            k = k.saturating_mul(4).min(most);
        }
    }

    /// Searches a group that has room left alone.
    fn fill(&self, group: &mut Group, column: &str, size: usize) -> Result<(), Fault> {
        if group.hits.len() == size {
            return Ok(());
        }
        let constant = match &group.id {
            FacetValue::Bool(value) => Constant::Bool(*value),
            FacetValue::Int(value) => Constant::Int(*value),
            FacetValue::Text(text) => Constant::Text(text.clone()),
            // Larger than any constant: what was seen has to do.
            FacetValue::UInt(_) => return Ok(()),
        };
        let is_member = Filter::of(Condition::Among { column: column.into(), constants: vec![constant] })?;
        // There are as many as groups: their masks are not worth those of the filters in use.
        let is_member = is_member.passing();
        let members = match &self.filter {
            Some(filter) => filter.and(&is_member),
            None => is_member,
        };
        group.hits = self.nearest(size, Some(members))?;
        Ok(())
    }

    fn nearest(&self, k: usize, filter: Option<Filter>) -> Result<Vec<Match>, Fault> {
        let query = self.query.clone().k(k);
        let query = filter.map_or(query.clone(), |filter| query.filter(filter));
        search(self.call, self.asked, query, &self.vector)
    }
}

fn grouped(found: &[Match], column: &ArrayRef, wanted: usize, size: usize) -> Result<Vec<Group>, Fault> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<FacetValue, usize> = HashMap::new();
    for &hit in found {
        for id in values(column, hit.ordinal as usize)? {
            match places.entry(id) {
                Entry::Occupied(place) => {
                    let hits = &mut groups[*place.get()].hits;
                    // A list may have a value twice.
                    if hits.len() < size && hits.last() != Some(&hit) {
                        hits.push(hit);
                    }
                }
                Entry::Vacant(place) if groups.len() < wanted => {
                    groups.push(Group { id: place.key().clone(), hits: vec![hit] });
                    place.insert(groups.len() - 1);
                }
                Entry::Vacant(_) => {}
            }
        }
    }
    Ok(groups)
}
