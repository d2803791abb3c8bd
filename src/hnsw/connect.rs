//! Every row must be reachable from the entry point: checked by a walk over the base layer, and repaired.

/// Makes every row reachable from `entry_point`; returns how many rows had to be linked.
///
/// An unreached row gets a link from the nearest row that it links to itself and that is reached (or, where there is
/// none, from the row reached last before it): in a free slot if there is one, else in place of that row's last
/// link that nothing depends on. To know that nothing depends on it, links of the walk's tree are never replaced.
pub(super) fn repair(links: &mut [u32], degree: usize, entry_point: u32) -> usize {
    let rows = links.len() / degree;
    let mut reached = vec![false; rows];
    let mut parent = vec![u32::MAX; rows];
    let mut queue = Vec::with_capacity(rows);
    grow(links, degree, entry_point, u32::MAX, &mut reached, &mut parent, &mut queue);
    let mut repaired = 0;
    let mut unreached: Vec<u32> = (0..rows as u32).filter(|&row| !reached[row as usize]).collect();
    while !unreached.is_empty() {
        let mut progressed = false;
        for &row in &unreached {
            if reached[row as usize] {
                continue;
            }
            let own = &links[row as usize * degree..(row as usize + 1) * degree];
            let host = own
                .iter()
                .copied()
                .take_while(|&to| to != u32::MAX)
                .find(|&to| reached[to as usize] && slot_for(links, degree, to, &parent).is_some());
            if let Some(host) = host {
                attach(links, degree, host, row, &mut reached, &mut parent, &mut queue);
                repaired += 1;
                progressed = true;
            }
        }
        unreached.retain(|&row| !reached[row as usize]);
        if !progressed && let Some(&row) = unreached.first() {
            // An island: no unreached row links out of it. Any reached row with a slot to spare will do.
            let host = (0..rows as u32)
                .rev()
                .find(|&host| reached[host as usize] && slot_for(links, degree, host, &parent).is_some())
                .expect("a tree of n rows uses n − 1 of its n · degree slots");
            attach(links, degree, host, row, &mut reached, &mut parent, &mut queue);
            repaired += 1;
            unreached.retain(|&row| !reached[row as usize]);
        }
    }
    repaired
}

/// A slot of `host` that is free, or whose link is not the one that the walk used to reach its target.
fn slot_for(links: &[u32], degree: usize, host: u32, parent: &[u32]) -> Option<usize> {
    let own = &links[host as usize * degree..(host as usize + 1) * degree];
    own.iter()
        .position(|&to| to == u32::MAX)
        .or_else(|| own.iter().rposition(|&to| parent[to as usize] != host))
        .map(|slot| host as usize * degree + slot)
}

fn attach(
    links: &mut [u32],
    degree: usize,
    host: u32,
    row: u32,
    reached: &mut [bool],
    parent: &mut [u32],
    queue: &mut Vec<u32>,
) {
    let slot = slot_for(links, degree, host, parent).expect("the caller found one");
    links[slot] = row;
    grow(links, degree, row, host, reached, parent, queue);
}

/// Extends the walk's tree from `start`, whose parent is `from`.
fn grow(
    links: &[u32],
    degree: usize,
    start: u32,
    from: u32,
    reached: &mut [bool],
    parent: &mut [u32],
    queue: &mut Vec<u32>,
) {
    reached[start as usize] = true;
    parent[start as usize] = from;
    queue.clear();
    queue.push(start);
    let mut next = 0;
    while next < queue.len() {
        let row = queue[next];
        next += 1;
        for &to in &links[row as usize * degree..(row as usize + 1) * degree] {
            if to == u32::MAX {
                break;
            }
            if !std::mem::replace(&mut reached[to as usize], true) {
                parent[to as usize] = row;
                queue.push(to);
            }
        }
    }
}
