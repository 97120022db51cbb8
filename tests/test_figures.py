"""The two figures of the post."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers import GRID, LOSS, SCATTER, Page, write_mnist


@pytest.fixture(scope='module')
def page(mnist, tmp_path_factory):
    """The page with untrained weights, ready to draw."""
    folder = tmp_path_factory.mktemp('figures')
    write_mnist(folder, mnist, 40, 200)
    page = Page(folder, num_samples=15).run(last=LOSS)
    page.names['output_dir'] = folder
    return page.run(first=SCATTER, last=SCATTER)


def check_that_it_is_saved(figure, file):
    """The file has all that the figure has: nothing was drawn after it was saved."""
    again = file.with_name('again.png')
    figure.savefig(again)
    np.testing.assert_array_equal(plt.imread(file), plt.imread(again))


def check_grid(page):
    """Draw the whole grid, and check digits, their places and the ticks; return its axes."""
    page.names['output_dir'] = page.folder
    page.run(first=GRID, last=GRID)
    page.run_code('viz_decoded(encoder, decoder, None)')
    (axes,) = plt.gcf().axes
    check_that_it_is_saved(axes.figure, page.folder / 'decoded_digits.png')
    height, width, channels = page['input_shape']
    image = np.reshape(axes.images[0].get_array(), (15 * height, 15 * width, channels))
    grid = np.linspace(-4, 4, 15)
    for row, column in [(0, 0), (0, 14), (14, 0), (3, 11)]:
        tile = image[row * height :, column * width :][:height, :width]
        point = np.zeros((1, page['latent_dim']))
        point[0, 0] = grid[column]
        point[0, 1] = -grid[row]
        np.testing.assert_allclose(tile, page['decoder'].predict(point)[0], atol=1e-5)
    assert axes.get_ylim() == (15 * height - 0.5, -0.5)  # the first row is at the top

    assert list(axes.get_xticks()) == [width // 2 + column * width for column in range(15)]
    assert list(axes.get_yticks()) == [height // 2 + row * height for row in range(15)]
    assert [label.get_text() for label in axes.get_xticklabels()] == [f'{x:.1f}' for x in grid]
    assert [float(label.get_text()) for label in axes.get_yticklabels()] == [round(-y, 1) for y in grid]
    return axes


def test_grid(page):
    axes = check_grid(page)
    assert axes.images[0].get_cmap().name == 'viridis'
    assert tuple(axes.figure.get_size_inches()) == (10, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')


@pytest.mark.parametrize('targets', ['digits', 'floats', 'none'])
def test_scatter(page, targets):
    target_data = {'digits': page['target_test'], 'floats': page['target_test'] / 10, 'none': None}[targets]
    page.names['target_data'] = target_data
    page.run_code('viz_latent_space(encoder, (input_test, target_data))')
    figure = plt.gcf()
    axes, *colour_bar = figure.axes
    points = axes.collections[0]
    mu, _, _ = page['encoder'].predict(page['input_test'])
    np.testing.assert_allclose(points.get_offsets(), mu, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    assert tuple(figure.get_size_inches()) == (8, 10)
    check_that_it_is_saved(figure, page.folder / 'latent_space.png')
    if targets == 'none':
        assert colour_bar == []
    else:
        np.testing.assert_array_equal(points.get_array(), target_data)
        assert points.get_cmap().name == 'viridis'
        assert len(colour_bar) == 1
