//! Finds the rows on which an expression fails: a part that fails is halved
//! until the bad row stands alone. Good rows keep their order.

use std::ops::Range;

use tidegate_engine::error::{OperatorError, RejectedRow};

/// Renders `rows` rows, as few parts as possible; answers the parts in order
/// and the rows that cannot be rendered.
pub(crate) fn narrow<T>(
    rows: usize,
    mut render: impl FnMut(Range<usize>) -> Result<T, OperatorError>,
) -> (Vec<T>, Vec<RejectedRow>) {
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    // A stack with the earliest rows on top.
    let mut parts = vec![(0, rows)];
    while let Some((from, to)) = parts.pop() {
        if from == to {
            continue;
        }
        match render(from..to) {
            Ok(part) => done.push(part),
            Err(error) if to - from == 1 => {
                refused.push(RejectedRow { row: from, reason: error.to_string() })
            }
            Err(_) => {
                let middle = from + (to - from) / 2;
                parts.push((middle, to));
                parts.push((from, middle));
            }
        }
    }
    (done, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bad_rows_are_refused_and_order_is_kept() {
        let bad = [3, 8];
        let render = |part: Range<usize>| {
            if bad.iter().any(|row| part.contains(row)) { Err(OperatorError::new("bad")) } else { Ok(part) }
        };
        let (parts, refused) = narrow(10, render);
        assert_eq!(parts.into_iter().flatten().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7, 9]);
        assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), bad);
        assert!(narrow(0, |_| Err::<(), _>(OperatorError::new("never"))).0.is_empty());
    }
}
