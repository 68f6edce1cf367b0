// SPDX-License-Identifier: GPL-2.0

//! The picture of a comparison: for each cell the median ratio and its 95 % interval, on a logarithmic axis
//! with a line at one.

use std::path::Path;

use anyhow::{anyhow, Result};
use plotters::prelude::*;

use super::results::{Cell, Results};

const WIDTH: u32 = 900;
const ROW: u32 = 26;
const FRAME: u32 = 110;
const BETTER: RGBColor = RGBColor(0x1b, 0x7f, 0x4d);
const WORSE: RGBColor = RGBColor(0xb0, 0x2a, 0x30);

/// Draws `results` to an SVG file at `path`.
pub fn draw(results: &Results, path: &Path) -> Result<()> {
    let cells: Vec<Cell> = results
        .cells()
        .into_iter()
        .filter(|cell| cell.ratio().is_some())
        .collect();
    let height = FRAME + ROW * cells.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let failed = |e: &dyn std::fmt::Display| anyhow!("cannot draw {}: {e}", path.display());
    chart(&area, &cells, &title(results)).map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))
}

fn title(results: &Results) -> String {
    let conditions = results.conditions();
    format!(
        "hv_netvsc, ours/C (right of 1: ours is better), kernel {}, {} rounds{}",
        conditions.kernel,
        conditions.rounds,
        if conditions.emulated {
            ", emulated"
        } else {
            ""
        }
    )
}

/// The range of the axis: all intervals, but at least a half to two.
fn range(cells: &[Cell]) -> (f64, f64) {
    let ratios = cells.iter().filter_map(Cell::ratio);
    ratios.fold((0.5, 2.0), |(low, high), ratio| {
        let least = ratio.low.unwrap_or(ratio.median);
        let most = ratio.high.unwrap_or(ratio.median);
        (f64::min(low, least), f64::max(high, most))
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn chart(area: &Area<'_>, cells: &[Cell], title: &str) -> Drawn {
    area.fill(&WHITE)?;
    let (low, high) = range(cells);
    let rows = cells.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(190)
        .build_cartesian_2d((low / 1.1..high * 1.1).log_scale(), rows..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("ratio")
        .x_label_formatter(&|x| format!("{x:.2}"))
        .draw()?;
    chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, rows)], BLACK)])?;
    for (row, cell) in cells.iter().enumerate() {
        let Some(ratio) = cell.ratio() else { continue };
        let y = row as f64 + 0.5;
        let colour = if ratio.median >= 1.0 { BETTER } else { WORSE };
        if let (Some(low), Some(high)) = (ratio.low, ratio.high) {
            let style = colour.stroke_width(2);
            chart.draw_series([PathElement::new([(low, y), (high, y)], style)])?;
        }
        chart.draw_series([Circle::new((ratio.median, y), 5, colour.filled())])?;
        let (_, y) = chart.backend_coord(&(1.0, y));
        let label = format!("{}  {:.2}", cell.name, ratio.median);
        let style = ("sans-serif", 14).into_text_style(area);
        area.draw_text(&label, &style, (14, y - 7))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::measure::{Measured, Quantity};
    use crate::benchmark::results::Conditions;
    use crate::benchmark::Effort;
    use crate::scenario::Driver;

    #[test]
    fn the_picture_shows_every_cell_with_its_ratio() {
        let mut results =
            Results::new(Conditions::now("7.2.0".into(), false, false, Effort::QUICK));
        for round in 0..3 {
            for (driver, factor) in [(Driver::C, 1.0), (Driver::Rust, 2.0)] {
                let value = factor * (10.0 + f64::from(round));
                results.add(
                    round,
                    driver,
                    vec![
                        Measured::cost("some-time", Quantity::Microseconds, value),
                        Measured::cost("some-memory", Quantity::Kibibytes, 7.0),
                    ],
                );
            }
        }
        let path = std::env::temp_dir().join(format!("e2e-plot-{}.svg", std::process::id()));
        draw(&results, &path).expect("draws");
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::remove_file(&path).expect("removes");
        for part in ["<svg", "some-time  0.50", "some-memory  1.00", "7.2.0"] {
            assert!(text.contains(part), "no '{part}'");
        }
    }
}
