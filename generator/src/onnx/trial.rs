//! Trying a model out when it is loaded: what its graph can take, and how its sequences may share a run.

use super::batch::Batch;
use super::graph::Graph;
use super::inplace::Rows;
use super::model::{Layout, Together};
use super::signature::Float;
use super::{Batching, GraphFiles, LoadError, OnnxModel, OnnxSequence, Options, attention, slim};
use crate::{LogitSource, Row, SourceError};
use dandyroll_scheme::TokenId;

impl OnnxModel {
    /// Chooses the fastest way to decode sequences together that gives each what it gets alone; none, if
    /// none does.
    pub(super) fn find_batches(&mut self, options: &Options) {
        let Ok(Some(expected)) = self.expected() else { return };
        let slots = self.layout.steady().signature.past.clone();
        let single = match (self.directory.graphs(), &self.layout) {
            (GraphFiles::Single(file), Layout::Past(_)) => Some(file.clone()),
            _ => None,
        };
        let rewritten = |model: &Self, rewrite: &dyn Fn(&[u8]) -> Option<Vec<u8>>, fused| {
            let file = single.as_ref()?;
            Graph::load_rewritten(file, &model.directory, &model.runtime, options, rewrite, fused)
        };
        let heads = self.directory.config().heads;
        // The operator sees all tokens; a window is longer than any trial.
        let fusible = options.batching == Batching::Best
            && self.directory.config().full_attention
            && slots.iter().all(|slot| slot.float == Float::F32);
        let fused = heads
            .filter(|_| fusible)
            .and_then(|heads| rewritten(self, &|model| attention::fuse(model, heads, &slots), true));
        if let Some(graph) = fused {
            let plain = std::mem::replace(&mut self.layout, Layout::Past(graph));
            self.batch = Some(Together::InPlace(Rows::new(&slots)));
            if self.try_batches(&expected, 1e-3).unwrap_or(false) {
                return;
            }
            self.layout = plain;
        }
        self.batch = Some(Together::Frames(Batch::new(&slots)));
        let slimmed = rewritten(self, &slim::slim, false);
        let plain = slimmed.map(|graph| std::mem::replace(&mut self.layout, Layout::Past(graph)));
        if !self.try_batches(&expected, 1e-2).unwrap_or(false) {
            self.batch = None;
            if let Some(plain) = plain {
                self.layout = plain;
            }
        }
    }

    /// Tokens to try the model out with, spread over the vocabulary: equal ones would hide what they see of
    /// each other.
    fn trial_ids(&self) -> Vec<TokenId> {
        let width = self.limits.width;
        (0..34).filter_map(|i| u32::try_from(i * 7919 % width).ok().map(TokenId)).collect()
    }

    /// The logits after 4 and after 34 tokens, each run whole by the graph as the file has it. `None` if no
    /// batch is to be thought of.
    fn expected(&mut self) -> Result<Option<Vec<Vec<f32>>>, SourceError> {
        let steady = &self.layout.steady().signature;
        if steady.past.is_empty() || steady.step.is_some() || self.limits.context < 40 {
            return Ok(None);
        }
        let ids = self.trial_ids();
        let mut expected = Vec::new();
        for count in [4, 34] {
            let (mut sequence, mut logits) = (self.begin()?, Vec::new());
            self.prefill(&mut sequence, &ids[..count], &mut logits)?;
            expected.push(logits);
        }
        Ok(Some(expected))
    }

    /// Whether sequences decoded together get what they get alone.
    ///
    /// Two of different lengths must give the `expected` logits, up to `share` of the logits' range: else
    /// the graph counts positions itself, or its mask means something else, or it was rewritten wrongly. And
    /// a sequence must get the same bits alone and among others, whatever their lengths, and in every room:
    /// else the kernels add in another order.
    fn try_batches(&mut self, expected: &[Vec<f32>], share: f32) -> Result<bool, SourceError> {
        let context = self.limits.context;
        let ids = self.trial_ids();
        let mut together = Vec::new();
        for count in [3, 33] {
            let mut sequence = self.begin()?;
            self.prefill(&mut sequence, &ids[..count], &mut Vec::new())?;
            together.push(sequence);
        }
        let mut found = vec![Vec::new(); 2];
        let mut rows: Vec<Row<'_, OnnxSequence>> = together
            .iter_mut()
            .zip(&mut found)
            .zip([ids[3], ids[33]])
            .map(|((sequence, logits), token)| Row { sequence, token, logits })
            .collect();
        self.step(&mut rows)?;
        drop(together);
        let finite = expected.iter().flatten().filter(|x| x.is_finite());
        let (low, high) =
            finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        let tolerance = share * (high - low);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance || a.to_bits() == b.to_bits();
        if !found.iter().flatten().zip(expected.iter().flatten()).all(close) {
            return Ok(false);
        }

        // Short and long sequences, alone and in every company, in little and in much room.
        let (most, lengths, rooms) = match &self.batch {
            Some(Together::Frames(batch)) => {
                let (grain, second) = (batch.grain(), batch.frame_for(batch.grain()));
                let rooms = [0, batch.frame_for(65), second, batch.frame_for(second + 1)];
                (batch.frame_for(context), [5, grain - 65, grain - 1], rooms)
            }
            Some(Together::InPlace(_)) => (context, [5, 447, 600], [0, 128, 600, 1000]),
            None => return Ok(false),
        };
        let trials: [(usize, usize, &[usize]); 7] = [
            (lengths[0], rooms[0], &[2, 3, 5, 8, 16]),
            (lengths[0], rooms[1], &[1]),
            (lengths[0], rooms[2], &[1, 2]),
            (lengths[1], rooms[0], &[2]),
            (lengths[1], rooms[2], &[1, 3]),
            (lengths[1], rooms[3], &[1]),
            (lengths[2], rooms[3], &[1]),
        ];
        let mut known = self.begin()?;
        self.prefill(&mut known, &ids[..9], &mut Vec::new())?;
        let mut alone: Vec<(usize, Vec<f32>)> = Vec::new();
        for (length, least, sizes) in trials {
            if length >= context || least > most {
                continue;
            }
            if !alone.iter().any(|(seen, _)| *seen == length) {
                alone.push((length, self.try_row(&known, length, 1, 0, ids[4])?));
            }
            for size in sizes {
                let row = self.try_row(&known, length, *size, least, ids[4])?;
                let same = |logits: &[f32]| logits.iter().zip(&row).all(|(a, b)| a.to_bits() == b.to_bits());
                if !alone.iter().any(|(seen, logits)| *seen == length && same(logits)) {
                    return Ok(false);
                }
            }
        }
        if let Some(batch) = &mut self.batch {
            batch.restart(0);
        }
        Ok(true)
    }

    /// The logits of a sequence of `length` tokens, last of `size`, with room for at least `least`. The tokens
    /// are those of `known`, over and over.
    fn try_row(
        &mut self,
        known: &OnnxSequence,
        length: usize,
        size: usize,
        least: usize,
        token: TokenId,
    ) -> Result<Vec<f32>, SourceError> {
        let layout = self.layout.steady().signature.past.clone();
        let mut sequences = Vec::with_capacity(size);
        for place in 0..size {
            let mut sequence = self.begin()?;
            // The others are shorter, each by another length.
            let length = if place + 1 == size { length } else { (length / (place + 2)).max(1) };
            match &mut self.batch {
                Some(Together::Frames(_)) => sequence.own = known.own.repeated(&layout, length),
                Some(Together::InPlace(_)) => {
                    sequence.store = known.store.repeated(&layout, known.length, length)?;
                }
                None => {}
            }
            sequence.length = length;
            sequences.push(sequence);
        }
        if let Some(batch) = &mut self.batch {
            batch.restart(least);
        }
        let mut logits = vec![Vec::new(); size];
        let mut rows: Vec<Row<'_, OnnxSequence>> = sequences
            .iter_mut()
            .zip(&mut logits)
            .map(|(sequence, logits)| Row { sequence, token, logits })
            .collect();
        self.step(&mut rows)?;
        Ok(logits.pop().unwrap_or_default())
    }

    /// Runs a few tokens whole, and again with all but the first after a past.
    ///
    /// Some exports were traced with one token at a time and lack the causal mask when several follow a
    /// past: their logits would be silently wrong. Where the two runs differ by more than 1 % of the
    /// logits' range, or the second fails, tokens after a past are fed one at a time.
    pub(super) fn try_out(&mut self) -> Result<(), LoadError> {
        const TOKENS: usize = 8;
        let file = self.layout.steady().file.clone();
        let failed =
            |reason: SourceError| LoadError::Trial { file: file.clone(), reason: reason.to_string() };
        let count = TOKENS.min(self.limits.context).min(self.limits.width);
        // Different tokens, spread over the vocabulary: equal ones would hide what they see of each other.
        let ids: Vec<TokenId> = (0..count)
            .filter_map(|i| u32::try_from(i * (self.limits.width / count.max(1))).ok().map(TokenId))
            .collect();
        let mut whole = Vec::new();
        let mut sequence = self.begin().map_err(failed)?;
        self.each_position(&mut sequence, &ids, &mut |_, row| whole.push(row.to_vec())).map_err(failed)?;
        let fixed = self.layout.steady().signature.step;
        if self.recomputes() || count < 3 {
            return Ok(());
        }
        if fixed.is_some() {
            self.bulk = false;
            return Ok(());
        }
        let mut sequence = self.begin().map_err(failed)?;
        let mut rows = Vec::new();
        let halves = [&ids[..1], &ids[1..]];
        let same = halves.iter().try_for_each(|ids| {
            self.each_position(&mut sequence, ids, &mut |_, row| rows.push(row.to_vec()))
        });
        let extent = |rows: &[Vec<f32>]| {
            let (low, high) = rows
                .iter()
                .flatten()
                .filter(|x| x.is_finite())
                .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
            high - low
        };
        let tolerance = 0.01 * extent(&whole);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance || a.to_bits() == b.to_bits();
        self.bulk = same.is_ok()
            && rows.len() == whole.len()
            && rows.iter().flatten().zip(whole.iter().flatten()).all(close);
        Ok(())
    }
}
