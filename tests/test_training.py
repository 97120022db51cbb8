"""A short training on real digits, and the figures drawn from it."""
import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import FILES, page, rows

@pytest.fixture(scope='module')
def trained(more_digits, tmp_path_factory):
    """12 epochs of 40 steps: the page's names, its figures, and the folder."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'latent_space_zoom.png').write_text('an earlier run drew this')
    names = page('--data', more_digits, '--epochs', 12, '--batch-size', 32, '--output-dir', folder)
    return names, folder

def test_loss_falls(trained):
    losses = rows(trained[1])
    assert [row['epoch'] for row in losses] == list(range(12))
    assert losses[-1]['loss'] < 0.5 * losses[0]['loss']
    assert losses[-1]['val_loss'] < 0.5 * losses[0]['val_loss']
    for row in losses:
        for prefix in ('', 'val_'):
            parts = row[prefix + 'reconstruction_loss'] + row[prefix + 'kl_loss']
            assert row[prefix + 'loss'] == pytest.approx(parts, rel=1e-5)

def test_scatter(trained):
    names, folder = trained
    mu, _, _ = names['encoder'].predict(names['input_test'])
    names['viz_latent_space'](names['encoder'], names['data'])
    figure = plt.gcf()
    axes, colour_bar = figure.axes
    points = axes.collections[0]
    np.testing.assert_allclose(points.get_offsets(), mu, rtol=1e-6)
    np.testing.assert_array_equal(points.get_array(), names['target_test'])
    assert points.get_cmap().name == 'viridis' and tuple(figure.get_size_inches()) == (8, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    assert [label.get_text() for label in colour_bar.get_yticklabels()] == list('0123456789')
    assert (folder / 'latent_space_zoom.png').exists() == np.any(np.abs(mu) > 4)

def test_grid(trained, monkeypatch):
    monkeypatch.setitem(plt.rcParams, 'image.origin', 'lower')  # of a reader's own settings
    names = trained[0]
    names['viz_decoded'](names['encoder'], names['decoder'], names['data'])
    figure = plt.gcf()
    axes, = figure.axes
    image = axes.images[0].get_array()
    assert image.shape[:2] == (15 * 28, 15 * 28)
    assert axes.images[0].get_cmap().name == 'viridis' and tuple(figure.get_size_inches()) == (10, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')
    columns, lines = ([float(label.get_text()) for label in labels]
                      for labels in (axes.get_xticklabels(), axes.get_yticklabels()))
    np.testing.assert_allclose(columns, np.linspace(-4, 4, 15), atol=0.051)
    np.testing.assert_allclose(lines, np.linspace(4, -4, 15), atol=0.051)
    assert axes.get_ylim() == (15 * 28 - 0.5, -0.5)  # the first row is at the top

def test_scatter_zooms_where_digits_lie_outside(digits, tmp_path):
    far_off = '''
mu = np.concatenate([[[-9, 0], [1, 5], [4, 4.01]], np.zeros((197, 2))])
encoder.predict = lambda images: (mu, None, None)
'''
    cell = '# %% [markdown]\n# ## Calling the visualizers'
    page('--data', digits, '--epochs', 1, '--output-dir', tmp_path, changes=[(cell, far_off + cell)])
    whole, _, zoomed, _ = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    assert whole.get_xlim()[0] < -9
    assert zoomed.get_xlim() == zoomed.get_ylim() == (-4, 4)
    assert zoomed.get_title() == '3 of 200 lie outside'
    assert (tmp_path / 'latent_space_zoom.png').read_bytes() != (tmp_path / 'latent_space.png').read_bytes()

def test_a_mistake_in_a_figure_shows_its_traceback(digits, tmp_path):
    """What was trained is saved by then; the post's own functions, which show their figure, cost the zoomed one."""
    with pytest.raises(NameError, match='grid_z'):
        page('--data', digits, '--epochs', 1, '--output-dir', tmp_path, changes=[("grid_x = np", "grid_z; grid_x = np")])
    assert {path.name for path in tmp_path.iterdir()} == {'vae_weights.h5', 'history.csv', 'latent_space.png'}
