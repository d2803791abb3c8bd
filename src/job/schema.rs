//! Which key belongs to which table, and what to answer to a key or value that belongs nowhere.

use super::diagnostics::{nearest, plain};

/// A table of the job file and the keys that it may hold.
#[derive(Debug, PartialEq)]
pub(super) struct Schema {
    /// As messages call it.
    pub table: &'static str,
    pub keys: &'static [&'static str],
}

pub(super) static JOB: Schema = Schema {
    table: "the top level",
    keys: &[
        "name",
        "seed",
        "threads",
        "backend",
        "memory_budget",
        "gpu_memory_budget",
        "scratch",
        "resume",
        "source",
        "queries",
        "output",
        "store",
        "encryption",
        "index",
    ],
};
pub(super) static SOURCE: Schema = Schema {
    table: "`[source]`",
    keys: &[
        "uri",
        "vector",
        "id",
        "attributes",
        "where",
        "shard",
        "on_bad_row",
        "table",
        "query",
        "credential",
        "embed",
    ],
};
pub(super) static EMBED: Schema = Schema {
    table: "`[source.embed]`",
    keys: &["kind", "text", "buckets", "command", "url", "credential", "batch", "timeout_s"],
};
pub(super) static QUERIES: Schema = Schema { table: "`[queries]`", keys: &["uri", "vector", "sample"] };
pub(super) static OUTPUT: Schema = Schema { table: "`[output]`", keys: &["uri"] };
pub(super) static ENCRYPTION: Schema = Schema { table: "`[encryption]`", keys: &["key", "key_id"] };
pub(super) static STORE: Schema = Schema {
    table: "`[store]`",
    keys: &[
        "endpoint",
        "region",
        "allow_http",
        "virtual_hosted",
        "encryption",
        "kms_key_id",
        "sse_c_key",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "account",
        "account_key",
        "service_account",
        "timeout_s",
        "deadline_s",
        "single_writer",
    ],
};
pub(super) static FLAT: Schema =
    Schema { table: "an index of kind `flat`", keys: &["name", "kind", "metric", "partition_by", "gate"] };
pub(super) static IVF_PQ: Schema = Schema {
    table: "an index of kind `ivf_pq`",
    keys: &[
        "name",
        "kind",
        "metric",
        "partition_by",
        "nlist",
        "code",
        "pq_m",
        "pq_bits",
        "rabitq_bits",
        "refine",
        "spill",
        "kmeans_iterations",
        "rotation",
        "loss",
        "gate",
        "target",
    ],
};
pub(super) static HNSW: Schema = Schema {
    table: "an index of kind `hnsw`",
    keys: &[
        "name",
        "kind",
        "metric",
        "partition_by",
        "m",
        "ef_construction",
        "code",
        "expert",
        "gate",
        "target",
    ],
};
/// Stands in for the three above while the kind is not understood.
pub(super) static ANY_INDEX: Schema = Schema {
    table: "an index",
    keys: &[
        "name",
        "kind",
        "metric",
        "partition_by",
        "gate",
        "target",
        "nlist",
        "pq_m",
        "pq_bits",
        "rabitq_bits",
        "refine",
        "spill",
        "kmeans_iterations",
        "rotation",
        "loss",
        "m",
        "ef_construction",
        "code",
        "expert",
    ],
};
pub(super) static GATE: Schema = Schema { table: "`gate`", keys: &["k", "min_recall"] };
pub(super) static TARGET: Schema = Schema { table: "`target`", keys: &["k", "recall"] };
pub(super) static EXPERT: Schema =
    Schema { table: "`expert`", keys: &["c_max", "fanout", "leaf_k", "l_max", "alpha", "memory_budget"] };

pub(super) static ALL: [&Schema; 13] = [
    &JOB,
    &SOURCE,
    &EMBED,
    &QUERIES,
    &OUTPUT,
    &STORE,
    &ENCRYPTION,
    &FLAT,
    &IVF_PQ,
    &HNSW,
    &GATE,
    &TARGET,
    &EXPERT,
];

/// What other tools call a key or a value of ours.
const ALIASES: &[(&str, &str)] = &[
    ("bits", "pq_bits"),
    ("column", "vector"),
    ("columns", "attributes"),
    ("cores", "threads"),
    ("device", "backend"),
    ("distance", "metric"),
    ("ef", "ef_construction"),
    ("efc", "ef_construction"),
    ("embedding", "vector"),
    ("file", "uri"),
    ("files", "uri"),
    ("endpointurl", "endpoint"),
    ("filter", "where"),
    ("indexes", "index"),
    ("iterations", "kmeans_iterations"),
    ("kmskey", "kms_key_id"),
    ("lists", "nlist"),
    ("m", "pq_m"),
    ("memory", "memory_budget"),
    ("memorylimit", "memory_budget"),
    ("maxconnections", "m"),
    ("minrecall", "recall"),
    ("nbits", "pq_bits"),
    ("niter", "kmeans_iterations"),
    ("path", "uri"),
    ("predicate", "where"),
    ("recall", "min_recall"),
    ("scratchdir", "scratch"),
    ("space", "metric"),
    ("sse", "encryption"),
    ("timeout", "timeout_s"),
    ("type", "kind"),
    ("url", "uri"),
    // Values.
    ("aes256", "sse_s3"),
    ("angular", "cosine"),
    ("awskms", "sse_kms"),
    ("cos", "cosine"),
    ("cuda", "gpu"),
    ("dot", "inner_product"),
    ("dotproduct", "inner_product"),
    ("drop", "skip"),
    ("error", "fail"),
    ("euclidean", "l2"),
    ("float16", "f16"),
    ("float32", "f32"),
    ("fp16", "f16"),
    ("fp32", "f32"),
    ("half", "f16"),
    ("ignore", "skip"),
    ("ip", "inner_product"),
    ("ivf", "ivf_pq"),
    ("metal", "gpu"),
    ("vulkan", "gpu"),
];

/// Which of `allowed` the writer probably meant.
pub(super) fn meant(written: &str, allowed: &[&'static str]) -> Option<&'static str> {
    let alias = || {
        let plain: String = plain(written).into_iter().collect();
        let aliases = ALIASES.iter().filter(|(alias, _)| *alias == plain);
        aliases.map(|&(_, name)| name).find(|name| allowed.contains(name))
    };
    alias().or_else(|| nearest(written, allowed.iter().copied()))
}

/// Advice for a key that `schema` has not.
pub(super) fn help_for_unknown_key(written: &str, schema: &Schema) -> Option<String> {
    let plain: String = plain(written).into_iter().collect();
    if matches!(plain.as_str(), "nprobe" | "efsearch") {
        return Some(format!(
            "`{written}` is a search setting: the build measures several and keeps the cheapest that reaches `target`"
        ));
    }
    if let Some(key) = meant(written, schema.keys) {
        return Some(format!("did you mean `{key}`?"));
    }
    let owner = ALL.iter().find(|other| other.keys.contains(&written))?;
    Some(if **owner == JOB {
        format!("`{written}` belongs to the top level: write it above the first `[table]`")
    } else {
        format!("`{written}` belongs to {}", owner.table)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_never_hides_a_real_key() {
        for schema in ALL {
            for key in schema.keys {
                assert_eq!(meant(key, schema.keys), Some(*key), "{}", schema.table);
            }
        }
    }
}
