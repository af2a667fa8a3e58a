"""Photos: finding files, reading them bounded, decoding them complete and upright.

    from facesearch.photos.decode import read_photo
    from facesearch.photos.find import Found, find

    for found in find([Path("album")]):
        if isinstance(found, Found):
            photo = read_photo(found.path, PhotoLimits(), wanted=1280)

`find` walks folders and archives; `place` opens a photo by its path, whether it is a file (`read`),
a member of an archive (`archive`, `zip`, `tar`) or a frame (`video`); `decode` makes a `Photo` of
its bytes, helped by `headers` and `tiff` (structure, pure Python), `formats` (the values between),
`pixels` and `heif` (the decoding libraries). `metadata` and `regions` read what a file says beside
its pixels, `phash` what they look like.
"""
