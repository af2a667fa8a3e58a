"""Photos: finding files, reading them bounded, decoding them complete and upright.

    from facesearch.photos.decode import read_photo
    from facesearch.photos.find import Found, find

    for found in find([Path("album")]):
        if isinstance(found, Found):
            photo = read_photo(found.path, PhotoLimits(), wanted=1280)

`find` walks folders; `read` reads a file's bytes; `decode` makes a `Photo` of them, helped by
`headers` and `tiff` (structure, pure Python), `formats` (the values between) and `pixels` (the
decoding libraries). Only `decode` and `pixels` import anything heavy.
"""
