//! The keys and values of sequences whose attention works in place: the memory that the graph reads and writes.
//!
//! Each cache slot is one tensor `[rows, heads, room, width]`, bound to the graph as past and as present at
//! once: a step writes the new tokens' keys and values behind the old ones and copies nothing. Every row has
//! its own length. The operator computes each row and head by itself over the row's own tokens, and the
//! other products compute each row in the same order whatever their number: so **a row's logits do not depend
//! on the others**, nor on the room. Loading tries that out.

use std::sync::{Arc, Weak};

use ort::memory::Allocator;
use ort::value::Tensor;

use super::signature::Slot;
use crate::SourceError;

/// Room is made for a multiple of this many tokens.
pub(super) const GRAIN: usize = 64;

fn engine(error: impl std::fmt::Display) -> SourceError {
    SourceError::Engine(error.to_string())
}

/// The room for this many tokens, with some to spare, so that growing is rare.
fn room_for(tokens: usize) -> usize {
    (tokens + tokens / 4).max(1).next_multiple_of(GRAIN)
}

/// Memory for some rows.
#[derive(Debug, Default)]
pub(super) struct Store {
    rows: usize,
    room: usize,
    pub(super) tensors: Vec<Tensor<f32>>,
}

impl Store {
    /// Zeros.
    fn new(layout: &[Slot], rows: usize, room: usize) -> Result<Self, SourceError> {
        let allocator = Allocator::default();
        let tensors = layout.iter().map(|slot| {
            let mut tensor =
                Tensor::<f32>::new(&allocator, [rows, slot.heads, room, slot.width]).map_err(engine)?;
            tensor.try_extract_tensor_mut::<f32>().map_err(engine)?.1.fill(0.0);
            Ok(tensor)
        });
        Ok(Self { rows, room, tensors: tensors.collect::<Result<_, SourceError>>()? })
    }

    /// Copies the first `length` tokens of a row of another store.
    fn copy_row(
        &mut self,
        layout: &[Slot],
        row: usize,
        other: &Self,
        other_row: usize,
        length: usize,
    ) -> Result<(), SourceError> {
        for ((slot, tensor), other_tensor) in layout.iter().zip(&mut self.tensors).zip(&other.tensors) {
            let (_, to) = tensor.try_extract_tensor_mut::<f32>().map_err(engine)?;
            let (_, from) = other_tensor.try_extract_tensor::<f32>().map_err(engine)?;
            let count = length * slot.width;
            for head in 0..slot.heads {
                let to_at = (row * slot.heads + head) * self.room * slot.width;
                let from_at = (other_row * slot.heads + head) * other.room * slot.width;
                to[to_at..to_at + count].copy_from_slice(&from[from_at..from_at + count]);
            }
        }
        Ok(())
    }

    /// The first row made to hold `tokens` tokens, of which it has `length`.
    pub(super) fn reserve(
        &mut self,
        layout: &[Slot],
        length: usize,
        tokens: usize,
    ) -> Result<(), SourceError> {
        if self.rows == 1 && self.room >= tokens {
            return Ok(());
        }
        let mut larger = Self::new(layout, 1, room_for(tokens))?;
        larger.copy_row(layout, 0, self, 0, length)?;
        *self = larger;
        Ok(())
    }

    /// The same `known` tokens over and over, `length` of them: something to try a model out with.
    pub(super) fn repeated(&self, layout: &[Slot], known: usize, length: usize) -> Result<Self, SourceError> {
        let mut store = Self::new(layout, 1, room_for(length + 1))?;
        for ((slot, tensor), own) in layout.iter().zip(&mut store.tensors).zip(&self.tensors) {
            let (_, to) = tensor.try_extract_tensor_mut::<f32>().map_err(engine)?;
            let (_, from) = own.try_extract_tensor::<f32>().map_err(engine)?;
            for head in 0..slot.heads {
                for token in 0..length {
                    let to_at = (head * store.room + token) * slot.width;
                    let from_at = (head * self.room + token % known.max(1)) * slot.width;
                    to[to_at..to_at + slot.width].copy_from_slice(&from[from_at..from_at + slot.width]);
                }
            }
        }
        Ok(store)
    }
}

/// One row of the batch.
#[derive(Debug)]
struct Seat {
    id: u64,
    /// Gone once the sequence is dropped.
    alive: Weak<()>,
    length: usize,
}

/// What a sequence brings to a step: its number, the sign of its life, its length, and its memory if it was
/// not in the last step.
pub(super) type Joining<'a> = (u64, &'a Arc<()>, usize, Option<Store>);

/// The rows that are decoded together. Free ones are computed, too, and come to nothing.
#[derive(Debug)]
pub(super) struct Rows {
    layout: Vec<Slot>,
    seats: Vec<Option<Seat>>,
    pub(super) store: Store,
    /// Rows that left the batch, and whose sequence lives.
    parked: Vec<(Seat, Store)>,
    /// The least room there is.
    least: usize,
}

/// How many rows are kept for so many sequences: a few free ones cost less than moving all the others.
fn rows_for(sequences: usize) -> usize {
    match sequences {
        0..=2 => sequences,
        3..=8 => sequences.next_multiple_of(2),
        _ => sequences.next_multiple_of(4),
    }
}

impl Rows {
    pub(super) fn new(layout: &[Slot]) -> Self {
        Self {
            layout: layout.to_vec(),
            seats: Vec::new(),
            store: Store::default(),
            parked: Vec::new(),
            least: 0,
        }
    }

    /// The slots.
    pub(super) fn layout(&self) -> &[Slot] {
        &self.layout
    }

    /// Has no less room than this, and forgets all rows.
    pub(super) fn restart(&mut self, least: usize) {
        *self = Self { least, ..Self::new(&self.layout) };
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.seats.iter().position(|seat| seat.as_ref().is_some_and(|seat| seat.id == id))
    }

    fn copy_out(&self, row: usize, length: usize) -> Result<Store, SourceError> {
        let mut store = Store::new(&self.layout, 1, room_for(length + 1))?;
        store.copy_row(&self.layout, 0, &self.store, row, length)?;
        Ok(store)
    }

    /// Takes a sequence's memory out of the batch, or off the park.
    pub(super) fn take(&mut self, id: u64) -> Result<Option<Store>, SourceError> {
        if let Some(place) = self.parked.iter().position(|(seat, _)| seat.id == id) {
            return Ok(Some(self.parked.swap_remove(place).1));
        }
        let Some(row) = self.place(id) else { return Ok(None) };
        let length = self.seats[row].take().map_or(0, |seat| seat.length);
        self.copy_out(row, length).map(Some)
    }

    /// Gathers the sequences of a step, and gives the row of each. Afterwards every row has room for one more.
    pub(super) fn gather(&mut self, mut joining: Vec<Joining<'_>>) -> Result<Vec<usize>, SourceError> {
        // Who is dropped leaves, who is alive and not in this step is parked.
        for row in 0..self.seats.len() {
            let Some(seat) = &self.seats[row] else { continue };
            let alive = seat.alive.strong_count() > 0;
            if alive && joining.iter().any(|(id, ..)| *id == seat.id) {
                continue;
            }
            let length = seat.length;
            let seat = self.seats[row].take();
            if let (true, Some(seat)) = (alive, seat) {
                let store = self.copy_out(row, length)?;
                self.parked.push((seat, store));
            }
        }
        self.parked.retain(|(seat, _)| seat.alive.strong_count() > 0);
        let mut longest = 0;
        for (id, _, length, store) in &mut joining {
            if let Some(place) = self.parked.iter().position(|(seat, _)| seat.id == *id) {
                *store = Some(self.parked.swap_remove(place).1);
            }
            if store.is_none() && self.place(*id).is_none() {
                return Err(engine("a sequence's keys and values were lost with a failed step"));
            }
            longest = longest.max(*length);
        }
        let wanted = rows_for(joining.len());
        let room = (longest + 1).max(self.least);
        let taken = self.seats.iter().flatten().count();
        // One sequence that comes with its own memory keeps it.
        if let ([(id, alive, length, own)], 0) = (&mut joining[..], taken)
            && own.as_ref().is_some_and(|own| own.rows == 1 && own.room >= room)
        {
            self.store = own.take().unwrap_or_default();
            self.seats = vec![Some(Seat { id: *id, alive: Arc::downgrade(alive), length: *length })];
            return Ok(vec![0]);
        }
        let wasteful = self.seats.len() > wanted + wanted / 2 + 1;
        let spacious = self.store.room > 2 * room_for(room);
        if self.seats.len() < joining.len() || wasteful || self.store.room < room || spacious {
            let room = if self.store.room < room || spacious { room_for(room) } else { self.store.room };
            let mut moved = Store::new(&self.layout, wanted, room)?;
            let mut seats: Vec<Option<Seat>> = Vec::with_capacity(wanted);
            for (row, seat) in self.seats.iter_mut().enumerate() {
                if let Some(seat) = seat.take() {
                    moved.copy_row(&self.layout, seats.len(), &self.store, row, seat.length)?;
                    seats.push(Some(seat));
                }
            }
            seats.resize_with(wanted, || None);
            (self.store, self.seats) = (moved, seats);
        }
        let mut places = Vec::with_capacity(joining.len());
        for (id, alive, length, own) in &joining {
            if let Some(row) = self.place(*id) {
                places.push(row);
                continue;
            }
            let free = self.seats.iter().position(Option::is_none);
            let (Some(row), Some(own)) = (free, own) else { return Err(engine("there is no row left")) };
            self.store.copy_row(&self.layout, row, own, 0, *length)?;
            self.seats[row] = Some(Seat { id: *id, alive: Arc::downgrade(alive), length: *length });
            places.push(row);
        }
        Ok(places)
    }

    /// Rows, free ones included.
    pub(super) fn rows(&self) -> usize {
        self.seats.len()
    }

    /// Tokens in a row; none in a free one.
    pub(super) fn length(&self, row: usize) -> usize {
        self.seats.get(row).and_then(Option::as_ref).map_or(0, |seat| seat.length)
    }

    /// Every row that is taken grew by one token.
    pub(super) fn grow(&mut self) {
        self.seats.iter_mut().flatten().for_each(|seat| seat.length += 1);
    }
}
