//! Overlapping tiles and their blend: how a frame is cut up, and what each tile weighs where it overlaps others.
//!
//! The idea is that of `tiled_decode` in diffusers' autoencoders: neighbours are cross-faded linearly over their overlap.
//! Here all tiles are of one size, so that a graph meets one shape, and they are spread evenly.

/// Whether frames are coded in tiles: less memory, for some work done twice.
///
/// A network that looks further than the overlap gives slightly other frames in tiles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tiling {
    /// Tiles of 512×512 pixels, or of 16×16 latents where these are more, for frames of more than 1024×1024 pixels. Neighbours
    /// share 64 pixels, or 4 latents.
    #[default]
    Auto,
    /// Whole frames.
    Off,
    /// Tiles of this size in pixels, rounded up to what the model can do.
    Tiles {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// Pixels that neighbours share at least; less than width and height.
        overlap: usize,
    },
}

impl Tiling {
    const AUTO_PIXELS: usize = 1024 * 1024;
    const AUTO_TILE: usize = 512;
    const AUTO_OVERLAP: usize = 64;

    /// Returns the largest tile (width, height, overlap) in pixels for a frame of latents of `ratio` pixels, `None` for whole frames.
    fn tile(self, width: usize, height: usize, ratio: usize) -> Option<(usize, usize, usize)> {
        match self {
            Self::Auto if width * height > Self::AUTO_PIXELS => {
                let side = Self::AUTO_TILE.max(16 * ratio);
                Some((side, side, Self::AUTO_OVERLAP.max(4 * ratio)))
            }
            Self::Auto | Self::Off => None,
            Self::Tiles { width, height, overlap } => Some((width, height, overlap)),
        }
    }
}

/// Tiles in a row, along one axis: all of one length, covering the axis from end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Axis {
    pub length: usize,
    pub tile: usize,
    pub starts: Vec<usize>,
}

impl Axis {
    /// Spreads tiles of about `tile` over `length`, neighbours sharing at least `overlap`.
    ///
    /// All are multiples of `step`, as is `length`.
    fn new(length: usize, tile: usize, overlap: usize, step: usize) -> Self {
        let overlap = overlap.next_multiple_of(step);
        let tile = tile.next_multiple_of(step).max(overlap + step);
        if tile >= length {
            return Self { length, tile: length, starts: vec![0] };
        }
        let last = (length - tile) / step;
        let gaps = last.div_ceil((tile - overlap) / step);
        Self { length, tile, starts: (0..=gaps).map(|i| i * last / gaps * step).collect() }
    }

    /// Returns what tile `index` weighs at each of its cells, each latent being `scale` cells, and what the tiles before
    /// it weigh there together.
    fn weights(&self, index: usize, scale: usize) -> Weights {
        let cells = |latents: usize| latents * scale;
        let first = cells(self.starts[index]);
        let weight_at = |tile: usize, cell: usize| {
            let (start, end) = (cells(self.starts[tile]), cells(self.starts[tile] + self.tile));
            if cell < start || end <= cell {
                return 0.0;
            }
            let rise = tile.checked_sub(1).map_or(1.0, |before| {
                let overlap = cells(self.starts[before] + self.tile).saturating_sub(start);
                ((cell - start) as f32 + 0.5) / overlap.max(1) as f32
            });
            let fall = self.starts.get(tile + 1).map_or(1.0, |&after| {
                let overlap = end.saturating_sub(cells(after));
                ((end - cell) as f32 - 0.5) / overlap.max(1) as f32
            });
            rise.min(fall).min(1.0)
        };
        (first..first + cells(self.tile))
            .map(|cell| {
                let sum = |tiles: std::ops::Range<usize>| tiles.map(|t| weight_at(t, cell)).sum::<f32>();
                let all = sum(0..self.starts.len());
                (weight_at(index, cell) / all, sum(0..index) / all)
            })
            .unzip()
    }
}

/// The weights of a tile along an axis, and those of the tiles before it together.
type Weights = (Vec<f32>, Vec<f32>);

/// How a frame is cut into tiles.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub rows: Axis,
    pub columns: Axis,
}

/// One tile's place in the frame, in latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    row: usize,
    column: usize,
    pub top: usize,
    pub left: usize,
}

impl Layout {
    /// Cuts a frame of `rows`×`columns` latents, each `ratio` pixels; tiles are multiples of `step` latents.
    pub fn new(rows: usize, columns: usize, tiling: Tiling, ratio: usize, step: usize) -> Self {
        let whole = (columns * ratio, rows * ratio, 0);
        let (width, height, overlap) = tiling.tile(whole.0, whole.1, ratio).unwrap_or(whole);
        let axis = |length, tile: usize| {
            Axis::new(length, tile.div_ceil(ratio).max(1), overlap.div_ceil(ratio), step)
        };
        Self { rows: axis(rows, height), columns: axis(columns, width) }
    }

    /// Returns the tiles, row by row.
    pub fn tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        self.rows.starts.iter().enumerate().flat_map(move |(row, &top)| {
            let columns = self.columns.starts.iter().enumerate();
            columns.map(move |(column, &left)| Tile { row, column, top, left })
        })
    }

    /// Copies the latents of `tile` from those of the whole frame; both are planes of rows.
    pub fn cut(&self, tile: Tile, whole: &[f32], out: &mut [f32]) {
        let (length, columns) = (self.columns.length, self.columns.tile);
        let planes = whole.chunks_exact(self.rows.length * length);
        for (plane, out) in planes.zip(out.chunks_exact_mut(self.rows.tile * columns)) {
            for (y, out) in out.chunks_exact_mut(columns).enumerate() {
                let start = (tile.top + y) * length + tile.left;
                out.copy_from_slice(&plane[start..start + columns]);
            }
        }
    }

    /// Blends `tile`, whose content is `part`, into `whole`, which is zero where no tile came before.
    ///
    /// Both are planes of rows of cells of `depth` numbers, a latent being `scale`×`scale` cells. Tiles come in the order of
    /// [`tiles`](Self::tiles). The running mean keeps what all tiles agree on to the last bit.
    pub fn blend(&self, tile: Tile, part: &[f32], whole: &mut [f32], scale: usize, depth: usize) {
        let (down, above) = self.rows.weights(tile.row, scale);
        let (across, left) = self.columns.weights(tile.column, scale);
        let part_row = across.len() * depth;
        let whole_row = self.columns.length * scale * depth;
        let (part_plane, whole_plane) = (down.len() * part_row, self.rows.length * scale * whole_row);
        let mut shares = vec![0.0f32; part_row];
        for y in 0..down.len() {
            for (x, shares) in shares.chunks_exact_mut(depth).enumerate() {
                let own = down[y] * across[x];
                shares.fill(own / (above[y] + down[y] * left[x] + own));
            }
            let start = (tile.top * scale + y) * whole_row + tile.left * scale * depth;
            for (part, whole) in part.chunks_exact(part_plane).zip(whole.chunks_exact_mut(whole_plane)) {
                let part = &part[y * part_row..][..part_row];
                let whole = &mut whole[start..][..part_row];
                for ((whole, part), share) in whole.iter_mut().zip(part).zip(&shares) {
                    *whole += (part - *whole) * share;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_axis_and_overlap_enough() {
        for step in [1, 2] {
            for length in (step..40).step_by(step) {
                for (tile, overlap) in [(1, 0), (4, 1), (8, 2), (8, 7), (3, 5), (64, 8)] {
                    let axis = Axis::new(length, tile, overlap, step);
                    let starts = &axis.starts;
                    assert_eq!(starts[0], 0);
                    assert_eq!(starts.last().unwrap() + axis.tile, length);
                    assert!(axis.tile.is_multiple_of(step) && starts.iter().all(|s| s.is_multiple_of(step)));
                    for pair in starts.windows(2) {
                        assert!(pair[0] < pair[1] && pair[1] + overlap <= pair[0] + axis.tile, "{axis:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_larger_than_the_frame_is_the_frame() {
        assert_eq!(Axis::new(10, 64, 8, 2), Axis { length: 10, tile: 10, starts: vec![0] });
    }

    #[test]
    fn weights_sum_to_one_everywhere() {
        for (length, tile, overlap) in [(10, 4, 1), (10, 4, 2), (10, 4, 3), (11, 10, 1), (7, 7, 3), (9, 3, 0)]
        {
            for scale in [1, 8] {
                let axis = Axis::new(length, tile, overlap, 1);
                let mut sums = vec![0.0; length * scale];
                for (index, start) in axis.starts.iter().enumerate() {
                    let (own, before) = axis.weights(index, scale);
                    for ((sum, own), before) in sums[start * scale..].iter_mut().zip(own).zip(before) {
                        assert!((*sum - before).abs() < 1e-6 && own > 0.0);
                        *sum += own;
                    }
                }
                assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-6), "{sums:?}");
            }
        }
    }

    #[test]
    fn neighbours_are_cross_faded_linearly() {
        let axis = Axis::new(6, 4, 2, 1);
        assert_eq!(axis.starts, [0, 2]);
        assert_eq!(axis.weights(0, 1).0, [1.0, 1.0, 0.75, 0.25]);
        assert_eq!(axis.weights(1, 1).0, [0.25, 0.75, 1.0, 1.0]);
        assert_eq!(axis.weights(1, 1).1, [0.75, 0.25, 0.0, 0.0]);
    }

    #[test]
    fn what_was_cut_blends_to_what_it_was_bit_by_bit() {
        let layout = Layout { rows: Axis::new(7, 3, 1, 1), columns: Axis::new(10, 4, 3, 1) };
        let whole: Vec<f32> = (0..2 * 70).map(|i| (i as f32 * 0.7).sin() / 3.0).collect();
        let mut blended = vec![0.0; whole.len()];
        let mut part = vec![0.0; 2 * 3 * 4];
        for tile in layout.tiles() {
            layout.cut(tile, &whole, &mut part);
            layout.blend(tile, &part, &mut blended, 1, 1);
        }
        assert_eq!(blended, whole);
        assert_eq!(layout.tiles().count(), 3 * 7);
    }

    #[test]
    fn a_blend_is_the_weighted_sum_of_its_tiles() {
        let layout = Layout { rows: Axis::new(2, 2, 0, 1), columns: Axis::new(6, 4, 2, 1) };
        let mut blended = vec![0.0; 2 * 6 * 3];
        for (value, tile) in [1.0, 3.0].into_iter().zip(layout.tiles()) {
            layout.blend(tile, &[value; 2 * 4 * 3], &mut blended, 1, 3);
        }
        let row: Vec<f32> = [1.0, 1.0, 1.5, 2.5, 3.0, 3.0].iter().flat_map(|v| [*v; 3]).collect();
        assert_eq!(blended, [row.clone(), row].concat());
    }

    #[test]
    fn only_large_frames_are_tiled_unasked() {
        let tiles = |width: usize, height: usize, tiling| {
            Layout::new(height / 8, width / 8, tiling, 8, 2).tiles().count()
        };
        assert_eq!(tiles(1024, 1024, Tiling::Auto), 1);
        assert_eq!(tiles(1920, 1088, Tiling::Auto), 5 * 3);
        let deep = Layout::new(2048 / 32, 2048 / 32, Tiling::Auto, 32, 1);
        assert_eq!((deep.rows.tile, deep.rows.starts[1]), (16, 12), "latents of 32 pixels overlap by four");
        assert_eq!(tiles(1920, 1088, Tiling::Off), 1);
        assert_eq!(tiles(64, 48, Tiling::Tiles { width: 32, height: 32, overlap: 16 }), 3 * 2);
        assert_eq!(tiles(64, 48, Tiling::Tiles { width: 1, height: 1, overlap: 0 }), 4 * 3);
    }
}
