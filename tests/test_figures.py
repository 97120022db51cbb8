"""The two figures of the post."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from helpers import GRID, LOSS, SCATTER, Page, check_grid, write_mnist


@pytest.fixture(scope='module')
def page(mnist, tmp_path_factory):
    """The page with untrained weights, ready to draw."""
    folder = tmp_path_factory.mktemp('figures')
    write_mnist(folder, mnist, 40, 200)
    page = Page(folder).run(last=LOSS)
    page.names['output_dir'] = folder
    return page.run(first=SCATTER, last=GRID)


def test_grid(page):
    axes = check_grid(page)
    assert axes.images[0].get_cmap().name == 'viridis'
    assert tuple(axes.figure.get_size_inches()) == (10, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    assert plt.imread(page.folder / 'decoded_digits.png').shape[:2] == (1000, 1000)


@pytest.mark.parametrize('has_targets', [True, False])
def test_scatter(page, has_targets):
    data = page['input_test'], page['target_test'] if has_targets else None
    with page.inside():
        page['viz_latent_space'](page['encoder'], data)
    figure = plt.gcf()
    axes, *colour_bar = figure.axes
    points = axes.collections[0]
    mu, _, _ = page['encoder'].predict(page['input_test'])
    np.testing.assert_allclose(points.get_offsets(), mu, rtol=1e-6)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    assert tuple(figure.get_size_inches()) == (8, 10)
    assert plt.imread(page.folder / 'latent_space.png').shape[:2] == (1000, 800)
    if has_targets:
        np.testing.assert_array_equal(points.get_array(), page['target_test'])
        assert points.get_cmap().name == 'viridis'
    assert len(colour_bar) == has_targets
