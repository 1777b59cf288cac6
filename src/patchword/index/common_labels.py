"""Words for what photos often show: names of clusters, and queries to measure searches with."""

COMMON_LABELS = tuple(
    """
person, man, woman, child, baby, family, crowd, face, hand, couple, wedding, party, dancer,
musician, athlete, worker, soldier, doctor, chef, dog, cat, horse, cow, sheep, goat, pig,
rabbit, mouse, squirrel, deer, bear, wolf, fox, lion, tiger, elephant, giraffe, zebra, monkey,
kangaroo, camel, bird, duck, swan, chicken, eagle, owl, parrot, penguin, fish, shark, whale,
dolphin, seal, turtle, frog, snake, lizard, butterfly, bee, spider, ant, insect, shell, crab,
tree, forest, flower, rose, tulip, sunflower, leaf, grass, garden, field, mushroom, cactus,
fruit, vegetable, mountain, hill, valley, canyon, desert, beach, sea, wave, island, lake, river,
waterfall, glacier, volcano, cave, sky, cloud, rainbow, lightning, sunset, sunrise, moon, stars,
snow, ice, rain, fog, fire, smoke, city, street, square, market, alley, bridge, tunnel, tower,
skyscraper, house, cottage, castle, palace, church, temple, mosque, museum, stadium, theatre,
factory, barn, windmill, lighthouse, harbour, station, airport, school, hospital, office, shop,
restaurant, bar, hotel, ruin, statue, monument, fountain, graffiti, fence, gate, wall, roof,
stairs, door, window, balcony, room, kitchen, bathroom, bedroom, corridor, car, taxi, bus,
truck, van, train, tram, bicycle, motorcycle, scooter, tractor, ambulance, airplane, helicopter,
balloon, rocket, boat, ship, sailboat, canoe, ferry, road, highway, crossing, traffic light,
traffic sign, parking lot, railway, table, chair, sofa, bed, desk, lamp, shelf, cupboard,
carpet, curtain, mirror, clock, vase, candle, pillow, basket, box, bag, suitcase, umbrella,
bread, cake, pizza, pasta, rice, soup, salad, sandwich, burger, cheese, egg, meat, steak,
sausage, seafood, sushi, ice cream, chocolate, cookie, breakfast, coffee, tea, beer, wine,
cocktail, glass, cup, bottle, plate, bowl, knife, fork, spoon, apple, banana, orange, lemon,
strawberry, grape, melon, pineapple, tomato, potato, carrot, onion, pepper, pumpkin, corn,
shirt, dress, skirt, trousers, jeans, jacket, coat, sweater, suit, tie, hat, cap, helmet, shoe,
boot, sandal, sock, glove, scarf, belt, ring, necklace, watch, glasses, sunglasses, uniform,
costume, mask, swimsuit, book, newspaper, magazine, letter, map, poster, painting, drawing,
sculpture, photograph, comic, logo, text, handwriting, chart, diagram, screenshot, receipt,
document, menu, computer, laptop, keyboard, screen, phone, camera, television, radio,
headphones, microphone, guitar, piano, violin, drum, trumpet, ball, football, basketball, tennis
racket, baseball, golf, skateboard, surfboard, ski, snowboard, swimming pool, playground, toy,
doll, teddy bear, chess, cards, hammer, saw, drill, screwdriver, ladder, rope, chain, gear,
engine, wheel, pipe, machine, robot, circuit board, microscope, wafer, x-ray, hammock, tent,
campfire, backpack, fishing, hiking, climbing, cycling, running, yoga, concert, parade, protest,
ceremony, graduation, pattern, texture, stripes, dots, spiral, star, heart, circle, triangle,
cross, arrow, number, night, aerial view, portrait, selfie, silhouette, reflection, shadow,
close-up, panorama, black and white photograph
""".replace("\n", " ")
    .strip()
    .split(", ")
)
