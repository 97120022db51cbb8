"""The cells for a folder of pictures, in the place of MNIST and below the figures."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import ExifTags, Image

from helpers import LOADING, PICTURES, TRAINING, Page, block, edited, inside

LOAD = block(PICTURES, 'def load(file)')
EXPLAINED = block(PICTURES, 'errors_of_mean')
LEGEND = block(PICTURES, 'plt.legend(')
ODDEST = block(PICTURES, 'oddest = ')
LETTERS = block(PICTURES, 'ImageDraw')

KINDS = [
    ('.png', 'L'),
    ('.png', 'P'),
    ('.png', 'RGBA'),
    ('.jpg', 'RGB'),
    ('.jpeg', 'RGB'),
    ('.JPEG', 'L'),
    ('.gif', 'L'),
    ('.webp', 'RGB'),
    ('.bmp', 'RGB'),
]


def save_picture(folder, half, grey, ending, mode):
    """Save a picture whose upper or left half is grey, with black bars outside of the square in its middle.

    The rest is white, or transparent black if the mode is RGBA. JPEGs lie on their side.
    """
    background = (0, 0, 0, 0) if mode == 'RGBA' else 'white'
    picture = Image.new('RGBA', (112, 80), background)
    picture.paste((grey, grey, grey, 255), (0, 0, 112, 40) if half == 'upper' else (0, 0, 56, 80))
    picture.paste('black', (0, 0, 16, 80))
    picture.paste('black', (96, 0, 112, 80))
    if mode != 'RGBA':
        picture = picture.convert('L').convert(mode)
    exif = Image.Exif()
    if ending.lower() in ('.jpg', '.jpeg'):
        picture = picture.transpose(Image.Transpose.ROTATE_90)
        exif[ExifTags.Base.Orientation] = 6
    file = folder / 'pictures' / half / f'{grey:03}{ending}'
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, exif=exif)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The page after an epoch with 40 pictures; each file is named after its grey."""
    folder = tmp_path_factory.mktemp('pictures')
    for number in range(40):
        half = ['upper', 'left'][number % 2]
        save_picture(folder, half, 4 * number, *KINDS[number % len(KINDS)])
    (folder / 'pictures' / 'left' / 'notes.txt').write_text('no picture')
    page = Page(folder, batch_size=16, no_epochs=1)
    (cell,) = page.cells_under(LOADING)
    page.sources[cell] = LOAD
    return page.run(last=TRAINING)


def all_images(page):
    """All images that were loaded, which should be in the order of their files."""
    return np.concatenate([page['input_train'], page['input_test']])


def test_each_picture(page):
    """It stands upright and on white, cut to a square, with the class and the file that are its own."""
    images = all_images(page)
    targets = np.concatenate([page['target_train'], page['target_test']])
    assert len({*page['files']}) == len(images) == len(targets) == 40
    assert images.shape == (40, 32, 32, 1)
    for image, target, file in zip(images, targets, page['files']):
        grey, white = int(file.stem), 255
        if page['class_names'][int(target)] == 'upper':
            expected = [grey, grey, white, white]
        else:
            expected = [grey, white, grey, white]
        assert file.parent.name == page['class_names'][int(target)]
        corners = image[[1, 1, 30, 30], [1, 30, 1, 30], 0] * 255
        np.testing.assert_allclose(corners, expected, atol=2, err_msg=file)


def test_the_held_out_tenth(page):
    """It is the end of the shuffled pictures, and no picture of the training."""
    assert (len(page['input_train']), len(page['input_test'])) == (36, 4)
    greys = [int(file.stem) for file in page['files']]
    assert np.abs(np.corrcoef(greys, np.arange(40))[0, 1]) < 0.5
    for targets in (page['target_train'], page['target_train'][-8:], page['target_test']):
        assert {*targets} == {0, 1}


def load(folder, cell=LOAD):
    """Run only the cell that loads, in a folder; return its names."""
    names = {'np': np, 'Path': Path}
    with inside(folder):
        exec(cell, names)
    return names


def save_ten(folder):
    for number in range(10):
        save_picture(folder, 'upper', number, '.png', 'L')
    return folder / 'pictures' / 'upper'


def test_colour(tmp_path):
    for number in range(10):
        picture = Image.new('RGBA', (9, 9), (200, 100, 20 * number, 255))
        (tmp_path / 'pictures').mkdir(exist_ok=True)
        picture.save(tmp_path / 'pictures' / f'{number}.png')
    names = load(tmp_path, edited(LOAD, "mode = 'L'", "mode = 'RGB'"))
    assert names['pictures'].shape == (10, 32, 32, 3)
    blues = [20 * int(file.stem) for file in names['files']]
    expected = [[200, 100, blue] for blue in blues]
    np.testing.assert_array_equal(names['pictures'][:, 16, 16], expected)


def test_too_few_pictures(tmp_path):
    with pytest.raises(ValueError, match=f'found 0 pictures in {tmp_path}'):
        load(tmp_path)


def test_hidden_and_linked_folders(tmp_path):
    """A notebook's copies are no class; a linked folder is."""
    upper = save_ten(tmp_path)
    hidden, elsewhere = upper.parent / '.ipynb_checkpoints', tmp_path / 'elsewhere'
    for folder in hidden, elsewhere:
        folder.mkdir()
        (folder / 'copy.png').write_bytes((upper / '007.png').read_bytes())
    (upper.parent / 'linked').symlink_to(elsewhere)
    names = load(tmp_path)
    assert list(names['class_names']) == ['linked', 'upper']
    assert len(names['files']) == 11


def make_text(file):
    file.write_text('no picture')


def make_half(file):
    file.write_bytes(file.read_bytes()[:60])


def break_chunk(file):
    file.write_bytes(file.read_bytes().replace(b'IDAT', b'IDAX'))


def make_huge(file):
    Image.new('1', (20_000, 20_000)).save(file)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('damage', [make_text, make_half, break_chunk, make_huge])
def test_a_file_that_cannot_be_read_is_named(tmp_path, damage):
    damage(save_ten(tmp_path) / '007.png')
    with pytest.raises(ValueError, match='007.png cannot be read'):
        load(tmp_path)


def test_16_bits_are_refused(tmp_path):
    """Pillow would turn such a picture white."""
    grey = np.full((9, 9), 30000, 'uint16')
    Image.fromarray(grey).save(save_ten(tmp_path) / '007.png')
    with pytest.raises(ValueError, match='007.png has 16 bits'):
        load(tmp_path)


def test_explained(page, capsys):
    page.run_code(EXPLAINED)
    images, mean = page['input_test'], page['input_train'].mean(axis=0)
    decoded = page['decoder'].predict(page['encoder'].predict(images)[0])
    share = 1 - ((decoded - images) ** 2).mean() / ((mean - images) ** 2).mean()
    assert capsys.readouterr().out == f'Explained: {share:.0%}\n'


def test_the_legend(page):
    page.run_code(LEGEND)
    axes = plt.gcf().axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [' left', ' upper']
    points, _, _ = page['encoder'].predict(all_images(page))
    for scatter, half in zip(axes.collections, ['left', 'upper'], strict=True):
        of_half = [file.parent.name == half for file in page['files']]
        np.testing.assert_allclose(scatter.get_offsets(), points[of_half], atol=1e-5)
    assert (page.output / 'latent_space_classes.png').exists()


def test_the_oddest(page, capsys, monkeypatch):
    """With a decoder that halves the way to the mean picture, and goes all of it for a single picture."""
    images = all_images(page)
    mean = images.mean(axis=0)
    decoded = (images + mean) / 2
    (odd,) = [k for k, file in enumerate(page['files']) if file.stem == '092']
    decoded[odd] = mean
    monkeypatch.setitem(page.names, 'decoder', SimpleNamespace(predict=lambda points: decoded))
    page.run_code(ODDEST)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert (page.output / 'oddest.png').exists()
    assert lines[0] == f'1.00 {Path("pictures/left/092.JPEG")}'
    assert all(line.startswith('0.25 ') for line in lines[1:])
    (shown,) = plt.gcf().axes[0].images
    np.testing.assert_array_equal(shown.get_array()[:, :32], images[odd, :, :, 0])


def test_letters(tmp_path):
    """The program draws as many letters as it is asked for, into a folder for each."""
    subprocess.run([sys.executable, '-c', LETTERS, '30'], cwd=tmp_path, check=True)
    files = list((tmp_path / 'pictures').glob('?/*.png'))
    assert len(files) == 30
    assert all(plt.imread(file).min() < 0.3 < 0.9 < plt.imread(file).max() for file in files)
