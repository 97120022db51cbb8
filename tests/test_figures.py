"""The figures that a training ends with, and that something was learnt to draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import Page, check_grid, read_history


@pytest.fixture(scope='module')
def trained(more_digits, tmp_path_factory):
    """The page after 12 epochs of 40 steps."""
    page = Page(tmp_path_factory.mktemp('trained'), data=more_digits, epochs=12, batch_size=32)
    return page.run()


def test_losses_fall(trained):
    epochs, losses, validation_losses = read_history(trained.folder).T
    assert list(epochs) == list(range(1, 13))
    assert losses[-1] < 0.5 * losses[0]
    assert validation_losses[-1] < 0.5 * validation_losses[0]
    header = (trained.folder / 'history.csv').read_text().splitlines()[0]
    assert header == 'epoch,loss,val_loss'


def test_scatter(trained):
    mu, _, _ = trained['encoder'].predict(trained['input_test'])
    trained['viz_latent_space'](trained['encoder'], trained['data'])
    figure = plt.gcf()
    axes, colour_bar = figure.axes
    points = axes.collections[0]
    np.testing.assert_allclose(points.get_offsets(), mu, rtol=1e-6)
    np.testing.assert_array_equal(points.get_array(), trained['target_test'])
    assert [label.get_text() for label in colour_bar.get_yticklabels()] == list('0123456789')
    assert points.get_cmap().name == 'viridis'
    assert tuple(figure.get_size_inches()) == (8, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')


def test_grid(trained):
    axes = check_grid(trained)
    assert axes.images[0].get_cmap().name == 'viridis'
    assert tuple(axes.figure.get_size_inches()) == (10, 10)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('z - dim 1', 'z - dim 2')


def test_zoomed_scatter(trained, monkeypatch):
    """It is drawn if images lie outside the square; otherwise an earlier one is deleted."""
    zoom = trained.folder / 'latent_space_zoom.png'
    mu = np.zeros((500, 2))
    mu[:3] = [[-9, 0], [1, 5], [4, 4.01]]
    monkeypatch.setattr(trained['encoder'], 'predict', lambda images: (mu, mu, mu))
    trained.run(first='Not in the post: the test loss', last='Calling the visualizers')
    axes = plt.gcf().axes[0]
    assert axes.get_xlim() == axes.get_ylim() == (-4, 4)
    assert axes.get_title() == '3 of 500 lie outside'
    assert plt.imread(zoom).shape == plt.imread(trained.folder / 'latent_space.png').shape
    assert zoom.read_bytes() != (trained.folder / 'latent_space.png').read_bytes()

    mu[:3] = 0
    trained.run(first='Not in the post: the test loss', last='Calling the visualizers')
    assert not zoom.exists()


def test_losses_over_the_epochs(trained, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, 'show', lambda: shown.append(plt.get_fignums()))
    trained.run(first='Not in the post: the losses over the epochs')
    (axes,) = plt.gcf().axes
    epochs, losses, validation_losses = read_history(trained.folder).T
    training, validation = axes.lines
    np.testing.assert_array_equal(training.get_xdata(), epochs)
    np.testing.assert_allclose(training.get_ydata(), losses)
    np.testing.assert_allclose(validation.get_ydata(), validation_losses)
    assert len(shown) == 1  # all figures together
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ['training', 'validation']
