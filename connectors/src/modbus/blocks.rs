//! Which registers are read together. Pure: points go in, requests come out;
//! answers of the device teach where its holes are.

use super::address::{Address, Area};

/// Registers that are read with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) start: Address,
    pub(crate) count: u16,
    /// Indices of the points inside.
    pub(crate) points: Vec<usize>,
}

/// What a device allows in one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Cells that may be read in vain to save a request.
    pub(crate) gap_max: u16,
    /// Registers in one request, at most 125.
    pub(crate) registers_max: u16,
    /// Bits in one request, at most 2,000.
    pub(crate) bits_max: u16,
}

/// Where each point lies: its first cell and how many it takes.
pub(crate) type Extent = (Address, u16);

/// Joins points into blocks; a point is never split.
pub(crate) fn plan(points: &[Extent], limits: Limits) -> Vec<Block> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|index| points.get(*index).copied());
    let mut blocks: Vec<Block> = Vec::new();
    for index in order {
        let Some((address, cells)) = points.get(index).copied() else { continue };
        let joined = blocks.last_mut();
        match joined.and_then(|block| join(block, address, cells, limits).map(|count| (block, count))) {
            Some((block, count)) => {
                block.count = count;
                block.points.push(index);
            }
            None => blocks.push(Block { start: address, count: cells, points: vec![index] }),
        }
    }
    blocks
}

/// The block's new length if this extent may join it.
fn join(block: &Block, address: Address, cells: u16, limits: Limits) -> Option<u16> {
    if address.area != block.start.area {
        return None;
    }
    let end = u32::from(block.start.offset) + u32::from(block.count);
    let gap = u32::from(address.offset).saturating_sub(end);
    let new_end = end.max(u32::from(address.offset) + u32::from(cells));
    let count = new_end - u32::from(block.start.offset);
    let most = if address.area.is_bits() { limits.bits_max } else { limits.registers_max };
    let fits = gap <= u32::from(limits.gap_max) && count <= u32::from(most);
    fits.then(|| u16::try_from(count).ok()).flatten()
}

/// Splits a refused block: without its gaps if it has any, else in halves, so
/// that the register which does not exist is found in a few requests. `None`
/// if it is a single point: that one does not exist.
pub(crate) fn bisect(block: &Block, points: &[Extent]) -> Option<Vec<Block>> {
    if block.points.len() < 2 {
        return None;
    }
    let no_gaps = Limits { gap_max: 0, registers_max: u16::MAX, bits_max: u16::MAX };
    let extents: Vec<Extent> = block.points.iter().filter_map(|index| points.get(*index).copied()).collect();
    let back = |part: Block| {
        let points = part.points.iter().filter_map(|at| block.points.get(*at).copied()).collect();
        Block { points, ..part }
    };
    let whole: Vec<Block> = plan(&extents, no_gaps).into_iter().map(back).collect();
    if whole.len() > 1 {
        return Some(whole);
    }
    let (left, right) = block.points.split_at_checked(block.points.len() / 2)?;
    let half = |indices: &[usize]| -> Option<Block> {
        let extents: Vec<Extent> = indices.iter().filter_map(|index| points.get(*index).copied()).collect();
        let start = extents.iter().map(|(address, _)| *address).min()?;
        let end =
            extents.iter().map(|(address, cells)| u32::from(address.offset) + u32::from(*cells)).max()?;
        let count = u16::try_from(end - u32::from(start.offset)).ok()?;
        Some(Block { start, count, points: indices.to_vec() })
    };
    Some(vec![half(left)?, half(right)?])
}

/// Pairs of points that share a register in part. Bits of one register, and
/// the same cells read as two types, are meant.
pub(crate) fn overlaps(points: &[(Extent, bool)]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, ((address, cells), is_bit)) in points.iter().enumerate() {
        for (other, ((other_address, other_cells), other_is_bit)) in points.iter().enumerate().skip(index + 1)
        {
            let same_area: Area = address.area;
            let (start, end) = (u32::from(address.offset), u32::from(address.offset) + u32::from(*cells));
            let (other_start, other_end) =
                (u32::from(other_address.offset), u32::from(other_address.offset) + u32::from(*other_cells));
            let meant = (*is_bit && *other_is_bit) || (start, end) == (other_start, other_end);
            if same_area == other_address.area && start < other_end && other_start < end && !meant {
                found.push((index, other));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { gap_max: 4, registers_max: 10, bits_max: 2_000 };

    fn at(offset: u16, cells: u16) -> Extent {
        (Address { area: Area::Holding, offset }, cells)
    }

    fn shape(blocks: &[Block]) -> Vec<(u16, u16)> {
        blocks.iter().map(|block| (block.start.offset, block.count)).collect()
    }

    #[test]
    fn joins_over_small_gaps_and_never_splits_a_point() {
        let points = [at(20, 2), at(0, 2), at(6, 1), at(8, 4), at(11, 2)];
        let blocks = plan(&points, LIMITS);
        // 0..2 gap 4 6..7; 8..12 would make 12 registers: a block of its own.
        assert_eq!(shape(&blocks), [(0, 7), (8, 5), (20, 2)]);
        assert_eq!(blocks[0].points, [1, 2]);
    }

    #[test]
    fn tables_are_never_mixed() {
        let points = [at(0, 1), (Address { area: Area::Input, offset: 1 }, 1)];
        assert_eq!(plan(&points, LIMITS).len(), 2);
    }

    #[test]
    fn bisecting_finds_the_missing_register_and_keeps_the_others() {
        let points: Vec<Extent> = [0, 1, 2, 3, 6, 7].into_iter().map(|offset| at(offset, 1)).collect();
        let exists = |block: &Block| {
            !(block.start.offset..block.start.offset + block.count).any(|cell| cell == 5 || cell == 2)
        };
        let mut todo = plan(&points, LIMITS);
        let (mut good, mut bad, mut requests) = (Vec::new(), Vec::new(), 0);
        while let Some(block) = todo.pop() {
            requests += 1;
            if exists(&block) {
                good.extend(block.points);
            } else if let Some(parts) = bisect(&block, &points) {
                todo.extend(parts);
            } else {
                bad.extend(block.points);
            }
        }
        good.sort_unstable();
        assert_eq!((good, bad), (vec![0, 1, 3, 4, 5], vec![2]));
        assert!(requests <= 8, "{requests}");
    }

    #[test]
    fn finds_overlaps_but_not_bits_of_one_register() {
        let points = [(at(0, 2), false), (at(1, 1), false), (at(5, 1), true), (at(5, 1), true)];
        assert_eq!(overlaps(&points), [(0, 1)]);
    }
}
