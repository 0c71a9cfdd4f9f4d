//! The keys and values of sequences that are decoded together.
//!
//! Each cache slot is one block `[rows, heads, frame, width]`, a row for each sequence, its tokens at the end
//! of the frame and zeros before them, which the attention mask hides. A step moves every token one place
//! towards the beginning: instead of moving memory, the block's beginning moves one place on, and the new
//! keys and values are written where the next head's first place, an empty one, was.
//!
//! **A row's logits do not depend on the others.** ONNX Runtime's CPU kernels compute each row of a product
//! in the same order whatever the number of rows. But sums over a sequence's tokens (of probabilities times
//! values) are cut into blocks of P tokens, P fixed by a head's width, counted from the beginning of the
//! frame: a sequence of the same tokens in two frames gives the same bits only if the blocks cut it at the
//! same tokens. So frames are P − 64 plus multiples of P, and below that multiples of 64, which are never
//! cut: then a sequence of a given length is cut at the same tokens in every frame, and empty blocks add
//! exact zeros. A lone sequence runs in the same frames. [`super::OnnxModel`] tries this out when it loads a
//! model, and decodes one by one where it does not hold.

use std::sync::{Arc, Weak};

use half::f16;
use ort::value::{DynValue, TensorRef, ValueRef};

use super::signature::{Float, Slot};
use crate::SourceError;

/// Frames below the first cut are multiples of this many tokens.
const GRAIN: usize = 64;

/// Steps until a block is moved back to its memory's beginning.
const SHIFTS: usize = 256;

/// Numbers of one of the two types that caches have.
#[derive(Clone, Debug)]
pub(super) enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Numbers {
    fn zeros(float: Float, count: usize) -> Self {
        match float {
            Float::F32 => Self::F32(vec![0.0; count]),
            Float::F16 => Self::F16(vec![f16::ZERO; count]),
        }
    }

    fn resize(&mut self, count: usize) {
        match self {
            Self::F32(numbers) => numbers.resize(count, 0.0),
            Self::F16(numbers) => numbers.resize(count, f16::ZERO),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
        }
    }

    fn clear(&mut self, from: usize, count: usize) {
        match self {
            Self::F32(numbers) => numbers[from..from + count].fill(0.0),
            Self::F16(numbers) => numbers[from..from + count].fill(f16::ZERO),
        }
    }

    fn move_within(&mut self, from: usize, count: usize, to: usize) {
        match self {
            Self::F32(numbers) => numbers.copy_within(from..from + count, to),
            Self::F16(numbers) => numbers.copy_within(from..from + count, to),
        }
    }

    /// Copies `count` numbers from `from` in `other`, which has the same type, to `to`.
    fn copy(&mut self, to: usize, other: Lent<'_>, from: usize, count: usize) {
        match (self, other) {
            (Self::F32(numbers), Lent::F32(other)) => {
                numbers[to..to + count].copy_from_slice(&other[from..from + count]);
            }
            (Self::F16(numbers), Lent::F16(other)) => {
                numbers[to..to + count].copy_from_slice(&other[from..from + count]);
            }
            // One slot has one type: `signature::read` holds past and present to it.
            _ => {}
        }
    }

    fn lend(&self) -> Lent<'_> {
        match self {
            Self::F32(numbers) => Lent::F32(numbers),
            Self::F16(numbers) => Lent::F16(numbers),
        }
    }

    /// `count` numbers from `from`, as a tensor of that shape, without a copy.
    pub(super) fn tensor(&self, from: usize, shape: [usize; 4]) -> ort::Result<ValueRef<'_>> {
        let count = shape.iter().product::<usize>();
        match self {
            Self::F32(numbers) => {
                TensorRef::from_array_view((shape, &numbers[from..from + count])).map(TensorRef::into_dyn)
            }
            Self::F16(numbers) => {
                TensorRef::from_array_view((shape, &numbers[from..from + count])).map(TensorRef::into_dyn)
            }
        }
    }
}

/// Numbers that are somewhere else.
#[derive(Clone, Copy)]
enum Lent<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl<'a> Lent<'a> {
    /// What the graph gave for one slot, and how many tokens a row of it has.
    fn of(value: &'a DynValue, slot: &Slot, rows: usize) -> Result<(Self, usize), SourceError> {
        let engine = |error: ort::Error| SourceError::Engine(error.to_string());
        let (shape, lent) = match slot.float {
            Float::F32 => {
                let (shape, numbers) = value.try_extract_tensor::<f32>().map_err(engine)?;
                (shape, Lent::F32(numbers))
            }
            Float::F16 => {
                let (shape, numbers) = value.try_extract_tensor::<f16>().map_err(engine)?;
                (shape, Lent::F16(numbers))
            }
        };
        let fits = |found: i64, expected: usize| usize::try_from(found) == Ok(expected);
        match &shape[..] {
            [b, heads, tokens, width]
                if fits(*b, rows) && fits(*heads, slot.heads) && fits(*width, slot.width) =>
            {
                Ok((lent, usize::try_from(*tokens).unwrap_or(0)))
            }
            _ => Err(SourceError::Engine(format!(
                "keys or values came back as {shape:?}; [{rows}, {}, tokens, {}] was expected",
                slot.heads, slot.width
            ))),
        }
    }
}

/// The keys and values of one sequence by itself: for each slot `[heads, tokens, width]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub(super) length: usize,
    pub(super) slots: Vec<Numbers>,
}

impl Own {
    /// A slot's keys or values as a tensor, without a copy. There is at least one token.
    pub(super) fn tensor(&self, layout: &[Slot], slot: usize) -> Option<ort::Result<ValueRef<'_>>> {
        let (layout, numbers) = layout.get(slot).zip(self.slots.get(slot))?;
        Some(numbers.tensor(0, [1, layout.heads, self.length, layout.width]))
    }

    /// The same tokens over and over, `length` of them: something to try a model out with.
    pub(super) fn repeated(&self, layout: &[Slot], length: usize) -> Self {
        let slots = layout.iter().zip(&self.slots).map(|(slot, old)| {
            let mut numbers = Numbers::zeros(slot.float, slot.heads * length * slot.width);
            for head in 0..slot.heads {
                for token in 0..length {
                    let from = (head * self.length + token % self.length) * slot.width;
                    numbers.copy((head * length + token) * slot.width, old.lend(), from, slot.width);
                }
            }
            numbers
        });
        Self { length, slots: slots.collect() }
    }

    /// Appends the last `count` tokens of what the graph gave for each slot.
    pub(super) fn append(
        &mut self,
        layout: &[Slot],
        present: &[DynValue],
        count: usize,
    ) -> Result<(), SourceError> {
        let length = self.length + count;
        let mut slots = Vec::with_capacity(layout.len());
        for (i, (slot, value)) in layout.iter().zip(present).enumerate() {
            let (lent, given) = Lent::of(value, slot, 1)?;
            let skipped = given.checked_sub(count).ok_or_else(short)?;
            let mut numbers = Numbers::zeros(slot.float, slot.heads * length * slot.width);
            for head in 0..slot.heads {
                let to = head * length * slot.width;
                if let Some(old) = self.slots.get(i) {
                    let size = self.length * slot.width;
                    numbers.copy(to, old.lend(), head * size, size);
                }
                let from = (head * given + skipped) * slot.width;
                numbers.copy(to + self.length * slot.width, lent, from, count * slot.width);
            }
            slots.push(numbers);
        }
        (self.length, self.slots) = (length, slots);
        Ok(())
    }
}

fn short() -> SourceError {
    SourceError::Engine("fewer keys and values came back than tokens were given".to_owned())
}

/// One row of the batch.
#[derive(Debug)]
struct Seat {
    id: u64,
    /// Gone once the sequence is dropped.
    alive: Weak<()>,
    length: usize,
}

/// The rows that are decoded together.
#[derive(Debug)]
pub(super) struct Batch {
    layout: Vec<Slot>,
    seats: Vec<Seat>,
    frame: usize,
    /// Tokens by which the blocks have moved on.
    shift: usize,
    blocks: Vec<Numbers>,
    /// Rows that left the batch, and whose sequence lives.
    parked: Vec<(Seat, Own)>,
    mask: Vec<i64>,
    /// The smallest number of tokens that a sum is cut at, by all slots' widths.
    period: usize,
    /// The smallest frame that is used.
    least: usize,
}

/// P for heads of this width: the kernels' block of 16 384 numbers over the width's power of two, which
/// they take from 16 to 128.
fn period(width: usize) -> usize {
    16_384 / width.next_power_of_two().clamp(16, 128)
}

impl Batch {
    pub(super) fn new(layout: &[Slot]) -> Self {
        let blocks = layout.iter().map(|slot| Numbers::zeros(slot.float, 0)).collect();
        let period = layout.iter().map(|slot| period(slot.width)).min().unwrap_or(GRAIN * 2);
        Self {
            layout: layout.to_vec(),
            seats: Vec::new(),
            frame: 0,
            shift: 0,
            blocks,
            parked: Vec::new(),
            mask: Vec::new(),
            period,
            least: 0,
        }
    }

    /// The smallest frame that holds this many tokens.
    pub(super) fn frame_for(&self, tokens: usize) -> usize {
        let first = self.period - GRAIN;
        if tokens <= first {
            tokens.next_multiple_of(GRAIN).max(GRAIN)
        } else {
            let more = (tokens - first).checked_next_multiple_of(self.period);
            more.and_then(|more| first.checked_add(more)).unwrap_or(usize::MAX)
        }
    }

    /// Uses no smaller frame than this one, and forgets all rows.
    pub(super) fn restart(&mut self, least: usize) {
        *self = Self { least, ..Self::new(&self.layout) };
    }

    /// By how much frames grow at most.
    pub(super) fn grain(&self) -> usize {
        self.period
    }

    /// The slots.
    pub(super) fn layout(&self) -> &[Slot] {
        &self.layout
    }

    fn row_size(&self, slot: &Slot, frame: usize) -> usize {
        slot.heads * frame * slot.width
    }

    /// Takes the sequence's row out of the batch, or off the park.
    pub(super) fn take(&mut self, id: u64) -> Option<Own> {
        if let Some(place) = self.parked.iter().position(|(seat, _)| seat.id == id) {
            return Some(self.parked.swap_remove(place).1);
        }
        let place = self.seats.iter().position(|seat| seat.id == id)?;
        let own = self.copy_out(place);
        self.remove(place);
        Some(own)
    }

    fn copy_out(&self, place: usize) -> Own {
        let length = self.seats.get(place).map_or(0, |seat| seat.length);
        let slots = self.layout.iter().zip(&self.blocks).map(|(slot, block)| {
            let mut numbers = Numbers::zeros(slot.float, slot.heads * length * slot.width);
            let base = self.shift * slot.width + place * self.row_size(slot, self.frame);
            for head in 0..slot.heads {
                let from = base + ((head + 1) * self.frame - length) * slot.width;
                numbers.copy(head * length * slot.width, block.lend(), from, length * slot.width);
            }
            numbers
        });
        Own { length, slots: slots.collect() }
    }

    /// Frees a row: the last one takes its place.
    fn remove(&mut self, place: usize) {
        let last = self.seats.len() - 1;
        if place != last {
            for (slot, block) in self.layout.iter().zip(&mut self.blocks) {
                let (size, base) = (slot.heads * self.frame * slot.width, self.shift * slot.width);
                block.move_within(base + last * size, size, base + place * size);
            }
        }
        self.seats.swap_remove(place);
    }

    /// Forgets whose sequence is dropped, and gives the ones that stay their place in the order of `ids`;
    /// who is not among them is parked.
    fn settle(&mut self, ids: &[u64]) {
        let mut place = 0;
        while let Some(seat) = self.seats.get(place) {
            let dropped = seat.alive.strong_count() == 0;
            if !dropped && ids.contains(&seat.id) {
                place += 1;
                continue;
            }
            if !dropped {
                let own = self.copy_out(place);
                let Seat { id, length, .. } = *seat;
                let alive = seat.alive.clone();
                self.parked.push((Seat { id, alive, length }, own));
            }
            self.remove(place);
        }
        self.parked.retain(|(seat, _)| seat.alive.strong_count() > 0);
    }

    /// Makes room for `rows` rows of `frame` tokens, keeping what is there.
    fn reshape(&mut self, rows: usize, frame: usize) {
        let (old_frame, old_shift, seats) = (self.frame, self.shift, self.seats.len());
        let same = frame == old_frame;
        if same && old_shift < SHIFTS {
            for (slot, block) in self.layout.iter().zip(&mut self.blocks) {
                let needed = (rows * slot.heads * frame + SHIFTS) * slot.width;
                if block.len() < needed {
                    block.resize(needed);
                }
            }
            return;
        }
        for (slot, block) in self.layout.iter().zip(&mut self.blocks) {
            let needed = (rows * slot.heads * frame + SHIFTS) * slot.width;
            let base = old_shift * slot.width;
            if same {
                block.move_within(base, seats * slot.heads * frame * slot.width, 0);
                block.resize(needed.max(block.len()));
                continue;
            }
            let mut moved = Numbers::zeros(slot.float, needed);
            for (row, seat) in self.seats.iter().enumerate() {
                for head in (0..slot.heads).map(|head| row * slot.heads + head) {
                    let from = base + ((head + 1) * old_frame - seat.length) * slot.width;
                    let to = ((head + 1) * frame - seat.length) * slot.width;
                    moved.copy(to, block.lend(), from, seat.length * slot.width);
                }
            }
            *block = moved;
        }
        (self.frame, self.shift) = (frame, 0);
    }

    /// Gathers the sequences of a step: each by its id, its own keys and values if it is new, and the sign
    /// of its life. Gives the row of each.
    pub(super) fn gather(
        &mut self,
        mut joining: Vec<(u64, &Arc<()>, Option<Own>)>,
    ) -> Result<Vec<usize>, SourceError> {
        let ids: Vec<u64> = joining.iter().map(|(id, ..)| *id).collect();
        self.settle(&ids);
        for (id, _, own) in &mut joining {
            if let Some(place) = self.parked.iter().position(|(seat, _)| seat.id == *id) {
                *own = Some(self.parked.swap_remove(place).1);
            }
        }
        let joined = joining.iter().filter_map(|(_, _, own)| own.as_ref().map(|own| own.length));
        let longest = self.seats.iter().map(|seat| seat.length).chain(joined).max().unwrap_or(0);
        let frame = self.frame_for(longest + 1).max(self.least);
        // A frame shrinks only when it is twice too large, so that lengths around a border cost nothing.
        let keeps = self.frame >= frame && self.frame <= frame.saturating_mul(2).max(frame + self.period);
        self.reshape(ids.len(), if keeps { self.frame } else { frame });
        for (id, alive, own) in joining {
            let Some(own) = own else { continue };
            let row = self.seats.len();
            for ((slot, block), numbers) in self.layout.iter().zip(&mut self.blocks).zip(&own.slots) {
                let size = slot.heads * self.frame * slot.width;
                let base = self.shift * slot.width + row * size;
                block.clear(base, size);
                for head in 0..slot.heads {
                    let to = base + ((head + 1) * self.frame - own.length) * slot.width;
                    let count = own.length * slot.width;
                    block.copy(to, numbers.lend(), head * count, count);
                }
            }
            self.seats.push(Seat { id, alive: Arc::downgrade(alive), length: own.length });
        }
        let places = ids.iter().map(|id| self.seats.iter().position(|seat| seat.id == *id));
        self.mask.clear();
        for seat in &self.seats {
            let hidden = self.frame - seat.length;
            self.mask.resize(self.mask.len() + hidden, 0);
            self.mask.resize(self.mask.len() + seat.length + 1, 1);
        }
        let lost =
            || SourceError::Engine("a sequence's keys and values were lost with a failed step".to_owned());
        places.map(|place| place.ok_or_else(lost)).collect()
    }

    /// Rows there are.
    pub(super) fn rows(&self) -> usize {
        self.seats.len()
    }

    /// Tokens a row has room for.
    #[cfg(test)]
    fn frame(&self) -> usize {
        self.frame
    }

    /// Tokens in a row.
    pub(super) fn length(&self, row: usize) -> usize {
        self.seats.get(row).map_or(0, |seat| seat.length)
    }

    /// The attention mask `[rows, frame + 1]`.
    pub(super) fn mask(&self) -> &[i64] {
        &self.mask
    }

    /// A slot's keys or values, without a copy.
    pub(super) fn tensor(&self, slot: usize) -> Option<ort::Result<ValueRef<'_>>> {
        let (layout, block) = self.layout.get(slot).zip(self.blocks.get(slot))?;
        let shape = [self.rows(), layout.heads, self.frame, layout.width];
        Some(block.tensor(self.shift * layout.width, shape))
    }

    /// Every row grew by one token: the last of what the graph gave for each slot.
    pub(super) fn grow(&mut self, present: &[DynValue]) -> Result<(), SourceError> {
        let rows = self.rows();
        for ((slot, block), value) in self.layout.iter().zip(&mut self.blocks).zip(present) {
            let (lent, given) = Lent::of(value, slot, rows)?;
            let last = given.checked_sub(1).ok_or_else(short)?;
            let base = self.shift * slot.width;
            for head in 0..rows * slot.heads {
                // The end of the head's frame once the beginning has moved on.
                let to = base + (head + 1) * self.frame * slot.width;
                block.copy(to, lent, (head * given + last) * slot.width, slot.width);
            }
        }
        self.shift += 1;
        self.seats.iter_mut().for_each(|seat| seat.length += 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUT: [Slot; 2] =
        [Slot { heads: 2, width: 3, float: Float::F32 }, Slot { heads: 1, width: 2, float: Float::F16 }];

    /// The number at (sequence, slot, head, token, place), exact in both types.
    fn number(id: u64, slot: usize, head: usize, token: usize, place: usize) -> f32 {
        let small = (usize::try_from(id).unwrap() * 31 + slot * 17 + head * 7 + token * 3 + place) % 1000;
        f32::from(u16::try_from(small).unwrap() + 1)
    }

    fn row(id: u64, slot: usize, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let Slot { heads, width, .. } = LAYOUT[slot];
        let mut all = Vec::new();
        for head in 0..heads {
            for token in tokens.clone() {
                all.extend((0..width).map(|place| number(id, slot, head, token, place)));
            }
        }
        all
    }

    fn numbers(float: Float, values: Vec<f32>) -> Numbers {
        match float {
            Float::F32 => Numbers::F32(values),
            Float::F16 => Numbers::F16(values.into_iter().map(f16::from_f32).collect()),
        }
    }

    fn own(id: u64, length: usize) -> Own {
        let slots = (0..2).map(|slot| numbers(LAYOUT[slot].float, row(id, slot, 0..length))).collect();
        Own { length, slots }
    }

    fn values(numbers: &Numbers) -> Vec<f32> {
        match numbers {
            Numbers::F32(numbers) => numbers.clone(),
            Numbers::F16(numbers) => numbers.iter().map(|x| x.to_f32()).collect(),
        }
    }

    impl Batch {
        /// What a graph would do: `grow` with each row's next token, without ONNX Runtime's tensors.
        fn grow_plainly(&mut self) {
            let rows: Vec<(u64, usize)> = self.seats.iter().map(|seat| (seat.id, seat.length)).collect();
            for (i, (slot, block)) in self.layout.iter().zip(&mut self.blocks).enumerate() {
                let given: Vec<f32> = rows.iter().flat_map(|(id, n)| row(*id, i, *n..n + 1)).collect();
                let given = numbers(slot.float, given);
                for head in 0..rows.len() * slot.heads {
                    let to = (self.shift + (head + 1) * self.frame) * slot.width;
                    block.copy(to, given.lend(), head * slot.width, slot.width);
                }
            }
            self.shift += 1;
            self.seats.iter_mut().for_each(|seat| seat.length += 1);
        }
    }

    proptest! {
        /// Sequences join at any length, step in any company, pause, come back and are dropped: the rows
        /// hold their tokens, the places before them are finite, and the mask shows the tokens alone.
        #[test]
        fn rows_hold_their_own(
            steps in proptest::collection::vec((proptest::collection::vec(any::<bool>(), 6), 1_usize..200), 1..25),
            lengths in proptest::collection::vec(1_usize..1200, 6),
            dropped in 0_usize..6,
        ) {
            let mut batch = Batch::new(&LAYOUT);
            let mut alive: Vec<Option<Arc<()>>> = (0..6).map(|_| Some(Arc::new(()))).collect();
            let mut tokens = lengths;
            let mut joined = [false; 6];
            let half = steps.len() / 2;
            for (at, (members, count)) in steps.into_iter().enumerate() {
                if at == half {
                    alive[dropped] = None;
                }
                let members: Vec<usize> = (0..6).filter(|i| members[*i] && alive[*i].is_some()).collect();
                if members.is_empty() {
                    continue;
                }
                for _ in 0..count {
                    let joining: Vec<_> = members
                        .iter()
                        .map(|i| {
                            let id = u64::try_from(*i).unwrap();
                            let own = (!joined[*i]).then(|| own(id, tokens[*i]));
                            (id, alive[*i].as_ref().unwrap(), own)
                        })
                        .collect();
                    let rows = batch.gather(joining).unwrap();
                    prop_assert_eq!(batch.rows(), members.len());
                    for (i, row) in members.iter().zip(&rows) {
                        joined[*i] = true;
                        prop_assert_eq!(batch.length(*row), tokens[*i]);
                        let shown: i64 = batch.mask()[row * (batch.frame() + 1)..][..batch.frame() + 1].iter().sum();
                        prop_assert_eq!(usize::try_from(shown).unwrap(), tokens[*i] + 1);
                    }
                    batch.grow_plainly();
                    members.iter().for_each(|i| tokens[*i] += 1);
                }
                for block in &batch.blocks {
                    prop_assert!(values(block).iter().all(|x| x.is_finite()));
                }
            }
            for i in (0..6).filter(|i| joined[*i] && alive[*i].is_some()) {
                let id = u64::try_from(i).unwrap();
                let own = batch.take(id).unwrap();
                prop_assert_eq!(own.length, tokens[i]);
                for slot in 0..2 {
                    prop_assert_eq!(values(&own.slots[slot]), row(id, slot, 0..tokens[i]), "{} {}", i, slot);
                }
                prop_assert!(batch.take(id).is_none());
            }
        }
    }

    #[test]
    fn frames_are_cut_alike() {
        let batch = Batch::new(&[Slot { heads: 1, width: 32, float: Float::F32 }]);
        let frames: Vec<usize> = (1..2500).map(|tokens| batch.frame_for(tokens)).collect();
        for (tokens, frame) in (1..2500).zip(&frames) {
            assert!(*frame >= tokens && (*frame < 512 || frame % 512 == 448));
        }
        let mut distinct = frames;
        distinct.dedup();
        assert_eq!(
            distinct,
            [64, 128, 192, 256, 320, 384, 448, 960, 1472, 1984, 2496, 3008][..distinct.len()]
        );
        assert_eq!([8, 16, 32, 64, 80, 128, 256].map(period), [1024, 1024, 512, 256, 128, 128, 128]);
    }
}
