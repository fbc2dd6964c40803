"""Pictures: exact colours, the right way up, and figures that hold what they were given."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from camlucida.errors import RequestError, UnknownNameError
from camlucida.render import Panel, colourise, draw_boxes, figure, overlay, sheet


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def heat(rng):
    """Steps of 1/255 that reach 0 and 1: each has a colour of its own."""
    return (rng.permutation(np.linspace(0, 255, 35).round()) / 255).reshape(5, 7)


def panel(width, height, title="", subtitle=""):
    return Panel(Image.new("RGB", (width, height), (200, 30, 30)), title, subtitle)


# Colours


def test_colours_are_matplotlibs(heat):
    table = (np.array([colormaps["jet"](k) for k in range(256)])[:, :3] * 255).astype(np.uint8)
    colours = colourise(heat)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, table[(heat * 255).round().astype(int)])


def test_the_ends_of_jet_are_blue_and_red():
    assert colourise([[0.0, 1.0]]).tolist() == [[[0, 0, 127], [127, 0, 0]]]


@pytest.mark.parametrize(("signed", "low"), [(False, 0.0), (True, -1.0)])
def test_what_lies_outside_is_clipped(signed, low):
    inside, outside = [[low, 1.0]], [[low - 5, np.inf]]
    np.testing.assert_array_equal(colourise(outside, signed=signed), colourise(inside, signed=signed))


def test_signed_maps_are_blue_below_white_at_and_red_above_zero():
    ((below, zero, above),) = colourise(np.array([[-1.0, 0.0, 1.0]]), signed=True).astype(int)
    assert below[2] > below[0] + 50
    assert zero.min() > 240
    assert above[0] > above[2] + 50


def test_a_named_colour_map_is_used_for_signed_maps_too():
    np.testing.assert_array_equal(colourise([[-1.0, 1.0]], "PiYG", signed=True), colourise([[0.0, 1.0]], "PiYG"))


def test_an_unknown_colour_map_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown colour map 'virdis'.*'viridis'"):
        colourise([[0.0]], "virdis")


def test_nan_has_no_colour():
    with pytest.raises(RequestError, match="1 NaN"):
        colourise([[0.0, np.nan]])


@pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (1, 4, 4)])
def test_a_heat_map_has_two_axes(shape):
    with pytest.raises(RequestError, match="two axes"):
        colourise(np.zeros(shape))


# Overlays


def test_mix_by_hand():
    pixels = np.array([[[100, 0, 255], [10, 20, 30]]], np.uint8)
    result = np.asarray(overlay(pixels, [[0.0, 1.0]], alpha=0.25))  # jet's ends: (0, 0, 127) and (127, 0, 0)
    assert result.tolist() == [[[75, 0, 223], [39, 15, 22]]]  # 223.0, 39.25, 22.5


def test_mix_is_the_nearest_integer_to_the_formula(pixels, heat):
    exact = 0.6 * pixels + 0.4 * colourise(heat)
    assert np.abs(np.asarray(overlay(pixels, heat)) - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("alpha", "expected"), [(0, lambda p, h: p), (1, lambda p, h: colourise(h))])
def test_mix_goes_from_the_picture_to_the_colours(pixels, heat, alpha, expected):
    np.testing.assert_array_equal(overlay(pixels, heat, alpha=alpha), expected(pixels, heat))


def test_add_by_hand():
    pixels = np.array([[[100, 20, 30], [20, 30, 40]]], np.uint8)
    result = np.asarray(overlay(pixels, [[0.0, 1.0]], alpha=1, blend="add"))
    total = np.array([[[100, 20, 157], [147, 30, 40]]])
    assert result.tolist() == ((total - 20) * 255 // 137).tolist()


def test_add_is_the_keras_tutorials_superposition(pixels, heat):
    def array_to_img(x):
        x = x - np.min(x)
        x /= np.max(x)
        return (x * 255).astype("uint8")

    jet_colors = colormaps["jet"](np.arange(256))[:, :3]
    jet_heatmap = array_to_img(jet_colors[(heat * 255).round().astype(int)]).astype("float32")
    expected = array_to_img(jet_heatmap * 0.4 + pixels.astype("float32"))
    result = np.asarray(overlay(pixels, heat, blend="add"))
    np.testing.assert_array_equal(result, expected)
    assert (result.min(), result.max()) == (0, 255)


def test_add_survives_a_picture_without_contrast():
    assert not np.asarray(overlay(np.full((2, 2, 3), 9, np.uint8), np.zeros((2, 2)), alpha=0, blend="add")).any()


@pytest.mark.parametrize("blend", ["mix", "add"])
@pytest.mark.parametrize("shape", [(40, 40), (20, 60), (60, 20)])
def test_heat_stays_where_it_is(blend, shape):
    heat = np.zeros(shape)
    heat[:5, :8] = 1
    picture = overlay(np.full((*shape, 3), 128, np.uint8), heat, blend=blend)
    assert picture.size == shape[::-1]
    red, _, blue = np.asarray(picture).astype(int).transpose(2, 0, 1)
    np.testing.assert_array_equal(red > blue, heat == 1)


def test_a_signed_overlay_has_signed_colours(pixels, heat):
    np.testing.assert_array_equal(overlay(pixels, -heat, alpha=1, signed=True), colourise(-heat, "RdBu_r", signed=True))


def test_an_overlay_leaves_its_input_alone(pixels, heat):
    before = pixels.copy(), heat.copy()
    pixels.flags.writeable = heat.flags.writeable = False
    overlay(pixels, heat, blend="add")
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(heat, before[1])


def test_an_unknown_blend_is_answered_with_the_known(pixels, heat):
    with pytest.raises(UnknownNameError, match="unknown blend 'screen'; there are 'mix', 'add'"):
        overlay(pixels, heat, blend="screen")


@pytest.mark.parametrize("alpha", [-0.1, 1.1, 40, float("nan")])
def test_alpha_is_a_weight(pixels, heat, alpha):
    with pytest.raises(RequestError, match="alpha"):
        overlay(pixels, heat, alpha=alpha)


def test_sizes_must_agree(pixels, heat):
    with pytest.raises(RequestError, match="heat map is 7x5 and the picture 5x7"):
        overlay(pixels, heat.T)


@pytest.mark.parametrize("wrong", [np.zeros((5, 7, 3)), np.zeros((5, 7), np.uint8), np.zeros((5, 7, 4), np.uint8)])
def test_pixels_are_bytes_of_three_channels(wrong, heat):
    with pytest.raises(RequestError, match="uint8"):
        overlay(wrong, heat)


# Boxes


def test_a_box_is_half_open():
    image = Image.new("RGB", (12, 10), (0, 0, 255))
    result = np.asarray(draw_boxes(image, [(3, 2, 9, 8)], colour="white", width=1))
    line = np.zeros((10, 12), bool)
    line[2:8, 3:9] = True
    line[3:7, 4:8] = False
    np.testing.assert_array_equal((result == 255).all(-1), line)
    edges = np.zeros((10, 12), bool)
    edges[1:9, 2:10] = True
    edges[4:6, 5:7] = False
    np.testing.assert_array_equal((result == 0).all(-1), edges & ~line)


def test_drawing_returns_a_new_picture():
    image = Image.new("L", (8, 8), 100)
    result = draw_boxes(image, [(1, 1, 7, 7)])
    assert result.mode == "RGB"
    assert image.getextrema() == (100, 100)
    unmarked = draw_boxes(result, [])
    assert unmarked is not result
    assert unmarked.tobytes() == result.tobytes()


@pytest.mark.parametrize("box", [(2, 2, 3, 3), (2, 1, 3, 8), (-5, -5, 20, 20), (6, 6, 20, 20)])
def test_a_line_never_leaves_its_box(box):
    result = np.asarray(draw_boxes(Image.new("RGB", (10, 10)), [box], colour="red", width=3))
    left, top, right, bottom = np.clip(box, 0, 10)
    red = result[..., 0] == 255
    assert not np.delete(red, slice(top, bottom), axis=0).any()
    assert not np.delete(red, slice(left, right), axis=1).any()


def test_lines_grow_with_the_picture():
    small, large = (np.asarray(draw_boxes(Image.new("RGB", (side, side)), [(0, 0, side, side)])) for side in (100, 900))
    assert (small[50, :50, 0] == 255).sum() == 1
    assert (large[450, :450, 0] == 255).sum() == 6


@pytest.mark.parametrize(
    ("boxes", "options", "error"),
    [
        ([(5, 5, 5, 9)], {}, RequestError),
        ([(5, 9, 9, 5)], {}, RequestError),
        ([], {"width": 0}, RequestError),
        ([], {"colour": "whit"}, UnknownNameError),
    ],
)
def test_boxes_that_cannot_be_drawn(boxes, options, error):
    with pytest.raises(error):
        draw_boxes(Image.new("RGB", (10, 10)), boxes, **options)


# Figures


def corners(axes):
    """Left, top, width and height of axes, in inches from the page's upper left corner."""
    across, down = axes.figure.get_size_inches()
    box = axes.get_position()
    return box.x0 * across, (1 - box.y1) * down, box.width * across, box.height * down


def test_every_panel_has_an_axes_with_its_texts():
    rows = [[panel(30, 20, f"method {i}", f"class {j}") for j in range(3)] for i in range(2)]
    page = figure(rows)
    panels = [p for row in rows for p in row]
    assert [axes.get_title(loc="left") for axes in page.axes] == [p.title for p in panels]
    assert [[text.get_text() for text in axes.texts] for axes in page.axes] == [[p.subtitle] for p in panels]
    assert not any(axes.axison for axes in page.axes)


def test_panels_form_a_grid():
    page = figure([[panel(30, 20, "a title"), panel(30, 20)], [panel(30, 20), panel(30, 20)]])
    left, top, *_ = np.array([corners(axes) for axes in page.axes]).T.round(6)
    assert left[0] == left[2] < left[1] == left[3]
    assert top[0] == top[1] < top[2] == top[3]


def test_rows_may_differ_in_length():
    assert len(figure([[panel(9, 9)], [], [panel(9, 9), panel(9, 9)]]).axes) == 3


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (10, 2), (1, 20)])
def test_pages_are_bounded_and_shapes_are_kept(rows, columns):
    shapes = [(60, 40), (40, 60), (300, 10), (10, 300), (1, 1)]
    cycle = [shapes[i % 5] for i in range(rows * columns)]
    page = figure([[panel(*shape, "title") for shape in cycle[i::rows]] for i in range(rows)], cmap="jet")
    across, down = page.get_size_inches()
    assert across <= 16
    for axes in page.axes:
        left, top, width, height = corners(axes)
        assert min(left, top) > 0
        assert left + width < across
        assert top + height < down
    for axes, (across, down) in zip(page.axes, [shape for i in range(rows) for shape in cycle[i::rows]], strict=False):
        _, _, width, height = corners(axes)
        assert width / height == pytest.approx(across / down)


def test_captions_stay_in_their_columns_and_clear_of_the_pictures():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    long = "WIDE CAPITALS and a resnet50/conv5_block3_out " * 2
    page = figure([[panel(30, 20, long, long)] * 3] * 2)
    renderer = FigureCanvasAgg(page).get_renderer()
    pictures = [axes.get_window_extent(renderer) for axes in page.axes]
    for axes, picture, right in zip(page.axes, pictures, [*pictures[1:3], None] * 2, strict=True):
        title, subtitle = (t.get_window_extent(renderer) for t in (axes._left_title, axes.texts[0]))
        assert title.y0 > subtitle.y1 > subtitle.y0 > picture.y1
        assert title.y1 < page.bbox.y1
        assert max(title.x1, subtitle.x1) < (right.x0 if right else page.bbox.x1)
        assert axes.texts[0].get_fontsize() < axes._left_title.get_fontsize()
    assert pictures[0].y0 > page.axes[3]._left_title.get_window_extent(renderer).y1


def test_long_titles_are_wrapped_and_then_cut():
    def title(text):
        return figure([[panel(9, 9, text)]]).axes[0].get_title(loc="left")

    assert title("short\nbut broken") == "short but broken"
    assert title("word " * 18).split() == ["word"] * 18
    assert title("word " * 18).count("\n") >= 1
    assert title("word " * 200).count("\n") == 2
    assert title("word " * 200).endswith("…")


def test_text_is_taken_literally():
    sheet([[panel(9, 9, r"$\nonsense{", "100$ _^ $")]])


def test_large_pictures_are_held_at_twice_what_is_shown():
    page = figure([[panel(3000, 1500)]])
    _, _, width, height = corners(page.axes[0])
    held = page.axes[0].images[0].get_array().shape
    assert held[:2] == (round(2 * height * page.dpi), round(2 * width * page.dpi))


@pytest.mark.parametrize(("signed", "ends"), [(False, ["1", "0"]), (True, ["1", "\N{MINUS SIGN}1"])])
def test_the_colour_bar_stands_at_the_right_with_its_greatest_value_above(signed, ends):
    page = figure([[panel(9, 9), panel(9, 9)]], cmap="viridis", signed=signed)
    assert len(page.axes) == 3
    bar, lefts = page.axes[-1], [corners(axes)[0] for axes in page.axes]
    assert lefts == sorted(lefts)
    assert corners(bar)[3] == pytest.approx(corners(page.axes[0])[3])
    colours = np.asarray(bar.images[0].get_array())
    np.testing.assert_array_equal(colours[[0, -1], 0], colourise([[1.0, 0.0]], "viridis")[0])
    assert [text.get_text() for text in bar.texts] == [*ends, "of the map's maximum"]


@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_figure_needs_a_panel(rows):
    with pytest.raises(RequestError, match="panel"):
        figure(rows)


def test_a_figure_with_an_unknown_colour_bar():
    with pytest.raises(UnknownNameError, match="jet"):
        figure([[panel(9, 9)]], cmap="jett")


def test_a_sheet_is_the_figure_drawn():
    upper, lower = np.zeros((2, 20, 30, 3), np.uint8)
    upper[:10, :15] = (255, 0, 0)
    rows = [[Panel(Image.fromarray(upper), "upper left")], [Panel(Image.fromarray(lower), "black")]]
    picture, page = sheet(rows), figure(rows)
    assert picture.mode == "RGB"
    assert picture.size == tuple(int(side * page.dpi) for side in page.get_size_inches())
    drawn = np.asarray(picture)
    assert (drawn[0] == 255).all()
    left, top, width, height = (int(length * page.dpi) for length in corners(page.axes[0]))
    assert drawn[top + height // 4, left + width // 4].tolist() == [255, 0, 0]
    assert drawn[top + height // 4, left + 3 * width // 4].tolist() == [0, 0, 0]
    assert drawn[top + 3 * height // 4, left + width // 4].tolist() == [0, 0, 0]


# What it costs to have it


def in_a_fresh_process(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_importing_is_light():
    code = "import sys, camlucida.render; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in in_a_fresh_process(code)}
    assert {"numpy", "PIL"} <= loaded
    assert not loaded & {"matplotlib", "scipy", "skimage", "keras", "tensorflow", "torch", "jax"}


def test_no_pyplot_and_no_setting_is_touched():
    code = """if True:
        import sys, matplotlib
        before = matplotlib.rcParams.copy()
        from PIL import Image
        from camlucida.render import Panel, draw_boxes, overlay, sheet
        import numpy as np
        picture = draw_boxes(overlay(np.zeros((9, 9, 3), np.uint8), np.eye(9)), [(1, 1, 5, 5)])
        sheet([[Panel(picture, "title", "subtitle")]], cmap="jet")
        print("matplotlib.pyplot" in sys.modules, matplotlib.rcParams.copy() == before)
    """
    assert in_a_fresh_process(code) == ["False", "True"]
